"""From weighted frames to the coefficients of one reverse pass: all losses of one molecule at once.

The replicas are two halves. The frames of each half, with their coefficients, are an ensemble of their own:
the gradient is the sum of both, and how far they agree tells signal from noise at no further cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from cgrefine.boltzmann.gradient import (
    NotTold,
    coefficients,
    effective_sizes,
    projected,
    relative_entropy_coefficients,
    split_half_coefficients,
    weighted_mean,
)
from cgrefine.boltzmann.samples import Pooled
from cgrefine.boltzmann.surrogate import Ensemble
from cgrefine.boltzmann.targets import Target
from cgrefine.boltzmann.weights import uniform_weights
from cgrefine.config.refining import Refine
from cgrefine.system import Topology


@dataclass(frozen=True)
class Objective:
    """Losses of one molecule. beta: 1/kT, mol/kcal; cfg: weights of the losses and ways to estimate them."""

    topology: Topology
    targets: Sequence[Target]
    beta: float
    cfg: Refine

    def slices(self) -> list[slice]:
        """Columns of each target in the values of a frame."""
        ends = np.cumsum([0, *(int(np.prod(t.observable.shape)) for t in self.targets)])
        return [slice(a, b) for a, b in pairwise(ends.tolist())]


class Reference(NamedTuple):
    """Reference frames of a window. positions (q, n, 3); change (q,): U/kT of the moment less that of the
    start, for the anchor alone."""

    positions: np.ndarray
    change: np.ndarray | None


class Estimated(NamedTuple):
    """losses: of each target by name, and the anchor's, kT²; halves: ensembles of both halves, see above.

    n_eff: independent frames that the targets' covariances rest on (NaN without targets); told: False where
    too few replicas were left to tell a covariance.
    """

    losses: dict[str, float]
    halves: tuple[list[Ensemble], list[Ensemble]]
    n_eff: float
    told: bool


def estimated(
    objective: Objective,
    frames: Pooled,
    weights: np.ndarray,
    reference: Reference,
    scale: float,
    rng: np.random.Generator,
) -> Estimated:
    """Losses, and the coefficients of their gradient times `scale`. rng: of minibatches, as published."""
    cfg, beta = objective.cfg, objective.beta
    losses, n_eff, told = {}, float("nan"), True
    a = np.zeros(len(weights))
    if objective.targets:
        losses = _losses(objective, frames, weights)
        try:
            own, n_eff = _of_targets(objective, frames, weights, rng)
            a += own
        except NotTold:
            told = False
    q = len(reference.positions)
    at_reference = np.zeros(q)
    if cfg.relative_entropy > 0.0:
        model, data = relative_entropy_coefficients(weights, uniform_weights(np.ones(q, bool)), beta)
        a += cfg.relative_entropy * model
        at_reference += cfg.relative_entropy * data
    if reference.change is not None:
        change = reference.change - reference.change.mean()
        losses["anchor"] = 0.5 * float(np.mean(change**2))
        at_reference += cfg.anchor * beta * change / q
    later = frames.sample.replica % 2 == 1
    # so many of the reference as the half has of the model: a constant added to U then changes neither half
    ends = np.floor(np.arange(q + 1) * weights[later].sum() + 1e-9)
    odd = np.diff(ends) > 0.0
    halves = tuple(
        [
            Ensemble(objective.topology, x[chosen], scale * c[chosen])
            for x, c, chosen in (
                (frames.sample.positions, a, later == half),
                (reference.positions, at_reference, odd == half),
            )
            if np.any(c[chosen])
        ]
        for half in (False, True)
    )
    return Estimated(losses, (halves[0], halves[1]), n_eff, told)


def means(objective: Objective, frames: Pooled, weights: np.ndarray) -> list[np.ndarray]:
    """Mean of each target's observable, in its shape."""
    return [
        weighted_mean(frames.values[:, columns], weights).reshape(t.observable.shape)
        for t, columns in zip(objective.targets, objective.slices(), strict=True)
    ]


def _losses(objective: Objective, frames: Pooled, weights: np.ndarray) -> dict[str, float]:
    variances = _variances(frames, weights)
    found = {}
    for t, mean, columns in zip(
        objective.targets, means(objective, frames, weights), objective.slices(), strict=True
    ):
        found[t.observable.name] = t.value(mean, variances[columns].reshape(t.observable.shape))
    return found


def _of_targets(
    objective: Objective, frames: Pooled, weights: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Coefficients of the frames, and the independent frames behind them."""
    cfg, beta, values = objective.cfg, objective.beta, frames.values
    slope = partial(_slope, objective, _variances(frames, weights))
    blocks = frames.sample.replica if cfg.centring == "replica" else None
    if cfg.product == "minibatch":
        return _minibatches(values, weights, slope, beta, cfg.minibatch_frames, rng)
    at_mean = slope(weighted_mean(values, weights))
    # correlated in time within a replica, whatever is centred together
    along = projected(values, weights, at_mean, blocks)
    by_replica = effective_sizes(along, weights, frames.sample.replica)
    n_eff = by_replica if cfg.centring == "replica" else float(by_replica.sum())
    if cfg.product == "whole":
        found = coefficients(values, weights, at_mean, beta, blocks, n_eff)
    else:
        halved = n_eff if cfg.centring == "replica" else 0.5 * n_eff
        second = frames.sample.replica % 2 == 1
        found = split_half_coefficients(values, weights, slope, beta, second, blocks, halved)
    return found, float(by_replica.sum())


def _minibatches(
    values: np.ndarray, weights: np.ndarray, slope, beta: float, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """As published: residual and covariance of each minibatch from its own frames, all of one weight, and the
    mean over minibatches. Frames that do not fill a minibatch are left out."""
    counted = rng.permutation(np.flatnonzero(weights > 0.0))
    size = min(size, len(counted))
    number = len(counted) // max(size, 1)
    total = np.zeros(len(weights))
    if size < 2:
        raise NotTold("no minibatch has two frames")
    for batch in np.split(counted[: number * size], number):
        p = np.full(size, 1.0 / size)
        own = values[batch]
        total[batch] = coefficients(own, p, slope(weighted_mean(own, p)), beta) / number
    return total, float(number * size)


def _slope(objective: Objective, variances: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Of all losses by the means of all values in a row."""
    parts = []
    for t, columns in zip(objective.targets, objective.slices(), strict=True):
        shape = t.observable.shape
        parts.append(t.slope(mean[columns].reshape(shape), variances[columns].reshape(shape)).reshape(-1))
    return np.concatenate(parts)


def _variances(frames: Pooled, weights: np.ndarray) -> np.ndarray:
    """Of the mean of each value, from the spread between replicas, (k,); 0 of a single one."""
    replica = frames.sample.replica
    share = np.bincount(replica, weights)
    there = np.flatnonzero(share > 0.0)
    if len(there) < 2:
        return np.zeros(frames.values.shape[1])
    sums = np.stack([weights[replica == r] @ frames.values[replica == r] for r in there])
    apart = sums - share[there, None] * sums.sum(0)
    return (apart**2).sum(0) * len(there) / (len(there) - 1)
