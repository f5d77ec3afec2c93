"""Two gradients into one direction: what observables and structures ask for, and what forces allow."""

from typing import Literal, NamedTuple

import jax
import numpy as np

from cgrefine.energy import Params

Way = Literal["constraint", "projection", "weighted", "none"]

SMOOTHING = 0.8
"""Share of the old norms in their running mean."""


class Balance(NamedTuple):
    """What a combination carries on. own, forces (): running mean norms of both gradients, 0 before the
    first; multiplier (): of the constraint on the force-matching loss, at least 0."""

    own: np.ndarray
    forces: np.ndarray
    multiplier: np.ndarray


START = Balance(np.zeros(()), np.zeros(()), np.ones(()))


def norm(tree: Params) -> float:
    """Of all leaves together, float64."""
    return float(np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in jax.tree.leaves(tree))))


def cosine(one: Params, other: Params) -> float:
    """Of the angle between two trees; NaN when one is zero."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    product = sum(float(np.sum(np.asarray(a, np.float64) * np.asarray(b, np.float64))) for a, b in pairs)
    size = norm(one) * norm(other)
    return product / size if size > 0.0 else float("nan")


def combined(
    way: Way, own: Params, forces: Params | None, balance: Balance, weight: float
) -> tuple[Params, Balance]:
    """The gradient that the optimiser is given, and the running norms.

    constraint: ĝ_own + λ ĝ_forces, with norms divided out so that λ has no unit; projection: ĝ_forces +
    weight · ĝ_own, whose part against ĝ_forces is taken out (one-sided form of Yu et al., NeurIPS 2020:
    forces have priority); weighted: g_own + weight · g_forces; none: g_own. ĝ: over the running mean of its
    norm.
    """
    if way == "none" or forces is None:
        return own, balance
    if way == "weighted":
        return jax.tree.map(lambda a, b: a + weight * b, own, forces), balance
    balance = balance._replace(
        own=_running(balance.own, norm(own)), forces=_running(balance.forces, norm(forces))
    )
    unit_own, unit_forces = _over(own, balance.own), _over(forces, balance.forces)
    if way == "constraint":
        multiplier = float(balance.multiplier)
        return jax.tree.map(lambda a, b: a + multiplier * b, unit_own, unit_forces), balance
    against = cosine(unit_own, unit_forces)
    if against < 0.0:
        share = against * norm(unit_own) / norm(unit_forces)
        unit_own = jax.tree.map(lambda a, b: a - share * b, unit_own, unit_forces)
    return jax.tree.map(lambda a, b: weight * a + b, unit_own, unit_forces), balance


def with_multiplier(balance: Balance, growth: float, tolerance: float, rate: float) -> Balance:
    """λ ← max(0, λ + rate · (growth/tolerance - 1)): up while the loss has grown by more than is tolerated.

    growth: of the force-matching loss relative to the start. Projected ascent of the dual; Boyd &
    Vandenberghe, Convex Optimization, section 5.5.5.
    """
    moved = float(balance.multiplier) + rate * (growth / tolerance - 1.0)
    return balance._replace(multiplier=np.asarray(max(moved, 0.0)))


def _running(before: np.ndarray, now: float) -> np.ndarray:
    if now == 0.0:
        return before
    return np.asarray(now if before == 0.0 else SMOOTHING * float(before) + (1.0 - SMOOTHING) * now)


def _over(tree: Params, size: np.ndarray) -> Params:
    divisor = float(size) if size > 0.0 else 1.0
    return jax.tree.map(lambda leaf: np.asarray(leaf) / np.asarray(divisor, np.asarray(leaf).dtype), tree)
