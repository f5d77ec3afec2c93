"""What ensemble means are to be, and how far they are from it: losses of means, with their noise floors.

A loss takes the mean of one observable and is 0 where it equals the target. Divided by the mean loss of the
reference against itself (split in two) it is about 1 where nothing is left but noise, whatever its kind, so
that those of different observables can be added.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from cgrefine.observables.compare import halved
from cgrefine.observables.histogram import Bins
from cgrefine.observables.statistics import Estimate
from cgrefine.observables.structure import Observable

Kind = Literal["noise", "cdf", "jensen_shannon", "kullback_leibler", "bernoulli", "mse", "at_most"]

LIFT = 1e-3
"""Share of a distribution that is spread evenly over its bins, so that empty ones cost and pull finitely."""

SEEN = 0.01
"""Contacts made in less than this share of reference frames, or in all but this, are left out."""

STEADIEST = 0.01
"""No entry's variance is taken for less than this share of the mean variance of all entries."""

MOST_OUTSIDE = 0.5
"""Mass of a target beyond its grid above which it is refused."""


@dataclass(frozen=True)
class Target:
    """The mean that an observable is to have, in its shape, and the variance of that mean (0: exact).

    floor: what the loss is divided by, 1 where the reference has no two groups. weight: in the sum of losses.
    """

    observable: Observable
    kind: Kind
    mean: np.ndarray
    variance: np.ndarray
    floor: float = 1.0
    weight: float = 1.0

    def loss(
        self, mean: Float[Array, "*shape"], variance: Float[np.ndarray, "*shape"] | None = None
    ) -> Float[Array, ""]:
        """weight · loss / floor at the model's mean; variance: of that mean, held fixed; for noise only."""
        raw = _LOSSES[self.kind](mean, jnp.asarray(self.mean), self._scale(variance), self.observable.grid)
        return self.weight / self.floor * raw

    def slope(self, mean: np.ndarray, variance: np.ndarray | None = None) -> np.ndarray:
        """Derivative of the loss by the mean, in its shape, float64."""
        with jax.enable_x64(True):
            return np.asarray(jax.grad(self.loss)(jnp.asarray(mean, jnp.float64), variance))

    def value(self, mean: np.ndarray, variance: np.ndarray | None = None) -> float:
        """The loss as a number."""
        with jax.enable_x64(True):
            return float(self.loss(jnp.asarray(mean, jnp.float64), variance))

    def _scale(self, variance: np.ndarray | None) -> Array:
        total = self.variance if variance is None else np.asarray(variance, np.float64) + self.variance
        return jnp.asarray(np.maximum(total, STEADIEST * total.mean() if total.any() else 1.0))


def target(
    observable: Observable,
    reference: Estimate,
    kind: Kind,
    weight: float = 1.0,
    splits: int = 50,
    seed: int = 0,
) -> Target:
    """The reference's mean as a target, with the noise floor of its groups.

    Raises ValueError when most of a histogram's reference lies outside its grid, when the kind needs a
    histogram and this is none, or when what is compared is no plain mean.
    """
    mean = reference.groups.mean(0)
    require(observable, mean, kind)
    g = len(reference.groups)
    variance = reference.groups.var(0, ddof=1) / g if g > 1 else np.zeros(observable.shape)
    found = Target(observable, kind, mean, variance, 1.0, weight)
    if g == 1 or kind in ("noise", "at_most"):
        return found
    halves = halved(reference.groups, splits, np.random.default_rng(seed))
    none = np.zeros(observable.shape)
    floors = [Target(observable, kind, p, none).value(q) for p, q in halves]
    floor = float(np.mean(floors))
    return Target(observable, kind, mean, variance, floor if floor > 0.0 else 1.0, weight)


def require(observable: Observable, mean: np.ndarray, kind: Kind) -> None:
    """Raise ValueError when this mean cannot be a target of this kind."""
    name, grid = observable.name, observable.grid
    if np.shape(mean) != observable.shape:
        raise ValueError(f"target {name}: shape {np.shape(mean)}, the observable has {observable.shape}")
    if not np.isfinite(mean).all():
        raise ValueError(f"target {name}: a value is not finite")
    if observable.of_mean(np.ones(observable.shape)).shape != observable.shape:
        raise ValueError(f"target {name}: it is no plain mean over frames, so it can be observed only")
    if kind in ("cdf", "jensen_shannon", "kullback_leibler") and grid is None:
        raise ValueError(f"target {name}: {kind} needs a histogram; choose noise, mse, bernoulli or at_most")
    if kind == "bernoulli" and not np.all((mean >= 0.0) & (mean <= 1.0)):
        raise ValueError(f"target {name}: bernoulli needs probabilities from 0 to 1")
    if grid is not None:
        outside = float(np.mean(mean[..., 0] + mean[..., -1]))
        if outside > MOST_OUTSIDE:
            raise ValueError(
                f"target {name}: {outside:.0%} of it lie outside the grid from {grid.low:g} to {grid.high:g} "
                f"{observable.unit}; allowed are {MOST_OUTSIDE:.0%}"
            )


def _noise(o: Array, g: Array, variance: Array, grid: Bins | None) -> Array:
    """Mean of (o - g)²/(Var o + Var g): 1 where the difference is noise."""
    return jnp.mean((o - g) ** 2 / variance)


def _mse(o: Array, g: Array, variance: Array, grid: Bins | None) -> Array:
    return jnp.mean((o - g) ** 2)


def _cdf(o: Array, g: Array, variance: Array, grid: Bins | None) -> Array:
    """∫ (F_o - F_g)² dx, Cramér's distance, in the unit of the coordinate; of several histograms the mean.

    It has a slope where two distributions do not overlap. Overflow counts as sitting at the outer edges.
    Periodic: about the mean of the difference, which makes it independent of where the circle is cut.
    Székely & Rizzo, J. Stat. Plan. Inference 143, 1249 (2013); on the circle Watson, Biometrika 48, 109
    (1961).
    """
    assert grid is not None
    if grid.periodic:
        apart = jnp.cumsum((o - g)[..., 1:-1], axis=-1)
        apart = apart - jnp.mean(apart, axis=-1, keepdims=True)
    else:
        apart = jnp.cumsum(o - g, axis=-1)[..., :-1]
    return jnp.mean(jnp.sum(apart**2, axis=-1)) * grid.width


def _jensen_shannon(o: Array, g: Array, variance: Array, grid: Bins | None) -> Array:
    p, q = _lifted(g), _lifted(o)
    mixed = 0.5 * (p + q)
    terms = xlogy(p, p) + xlogy(q, q) - 2.0 * xlogy(mixed, mixed)
    return 0.5 * jnp.mean(jnp.sum(terms, axis=-1))


def _kullback_leibler(o: Array, g: Array, variance: Array, grid: Bins | None) -> Array:
    """Of the model from the reference: Σ g ln(g/o), both lifted."""
    p, q = _lifted(g), _lifted(o)
    return jnp.mean(jnp.sum(p * (jnp.log(p) - jnp.log(q)), axis=-1))


def _bernoulli(o: Array, g: Array, variance: Array, grid: Bins | None) -> Array:
    """Mean over contacts of g ln(g/o) + (1 - g) ln((1 - g)/(1 - o)), both kept LIFT away from 0 and 1."""
    seen = (g > SEEN) & (g < 1.0 - SEEN)
    p, q = LIFT + (1.0 - 2.0 * LIFT) * g, LIFT + (1.0 - 2.0 * LIFT) * o
    each = p * jnp.log(p / q) + (1.0 - p) * jnp.log((1.0 - p) / (1.0 - q))
    return jnp.sum(jnp.where(seen, each, 0.0)) / jnp.maximum(jnp.sum(seen), 1)


def _at_most(o: Array, g: Array, variance: Array, grid: Bins | None) -> Array:
    """Mean of what exceeds the target: for penalties, which may well be below that of the reference."""
    return jnp.mean(jnp.maximum(o - g, 0.0))


def _lifted(p: Array) -> Array:
    return (1.0 - LIFT) * p + LIFT / p.shape[-1]


_LOSSES: dict[Kind, Callable[[Array, Array, Array, Bins | None], Array]] = {
    "noise": _noise,
    "cdf": _cdf,
    "jensen_shannon": _jensen_shannon,
    "kullback_leibler": _kullback_leibler,
    "bernoulli": _bernoulli,
    "mse": _mse,
    "at_most": _at_most,
}
