"""Distances between a model's and the reference's distributions, with errors and noise floors."""

from collections.abc import Callable
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import xlogy

from cgrefine.observables.histogram import Bins
from cgrefine.observables.statistics import Estimate, resampled
from cgrefine.observables.structure import Observable

KL_FLOOR = 1e-3
"""Share of the model's distribution that is spread evenly over all bins before KL is taken."""


def jensen_shannon(p: Float[np.ndarray, "*rows n"], q: Float[np.ndarray, "*rows n"]) -> float:
    """Jensen-Shannon divergence of two histograms of unit mass, nats: 0 if equal, ln 2 if disjoint.

    Of several histograms (residues): the mean. Lin, IEEE Trans. Inf. Theory 37, 145 (1991). Biased upwards
    by about (bins in use)/8 · (1/N_p + 1/N_q) at N_p and N_q samples.
    """
    return float(np.mean(jensen_shannon_rows(p, q)))


def jensen_shannon_rows(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The same of each row."""
    mixed = 0.5 * (p + q)
    entropies = xlogy(p, p) + xlogy(q, q) - 2.0 * xlogy(mixed, mixed)
    return np.asarray(np.maximum(0.5 * np.sum(entropies, axis=-1), 0.0))


def kullback_leibler(
    p: Float[np.ndarray, "*rows n"], q: Float[np.ndarray, "*rows n"], floor: float = KL_FLOOR
) -> float:
    """Σ p ln(p/q') in nats, p the reference: of several histograms the mean.

    q' = (1 - floor) q + floor/n, so that a bin which the model never visits costs a finite amount, at most
    p ln(n/floor).
    """
    lifted = (1.0 - floor) * q + floor / q.shape[-1]
    return float(np.mean(np.sum(xlogy(p, p) - xlogy(p, lifted), axis=-1)))


def wasserstein(p: Float[np.ndarray, "*rows n"], q: Float[np.ndarray, "*rows n"], grid: Bins) -> float:
    """Earth mover's distance of two histograms on one grid, in its unit; of several histograms the mean.

    Area between the two cumulative distributions; overflow mass counts as sitting at the outer edges. On a
    periodic grid mass may go either way round: the cumulative difference less its median.
    Rabin, Delon & Gousseau, J. Math. Imaging Vis. 41, 147 (2011).
    """
    return float(np.mean(wasserstein_rows(p, q, grid)))


def wasserstein_rows(p: np.ndarray, q: np.ndarray, grid: Bins) -> np.ndarray:
    """The same of each row."""
    if grid.periodic:
        difference = np.cumsum((p - q)[..., 1:-1], axis=-1)
        shifted = difference - np.median(difference, axis=-1, keepdims=True)
        return np.asarray(grid.width * np.sum(np.abs(shifted), axis=-1))
    difference = np.cumsum(p - q, axis=-1)[..., :-1]
    inner = np.full(grid.count + 1, grid.width)
    inner[[0, -1]] = 0.5 * grid.width
    return np.asarray(np.sum(np.abs(difference) * inner, axis=-1))


def mean_absolute_difference(p: Float[np.ndarray, "*shape"], q: Float[np.ndarray, "*shape"]) -> float:
    """Mean |p - q|, for contact probabilities."""
    return float(np.mean(np.abs(p - q)))


def mean_squared_difference(p: Float[np.ndarray, "*shape"], q: Float[np.ndarray, "*shape"]) -> float:
    """Mean (p - q)² over all entries: of histograms the masses, overflow included."""
    return float(np.mean((p - q) ** 2))


def histogram_mean(p: Float[np.ndarray, "*rows n"], grid: Bins) -> float:
    """Mean of the coordinate, with overflow mass at the outer edges; of several histograms together.

    On a periodic grid the mean of the wrapped values, which depends on where the grid begins.
    """
    positions = np.concatenate([[grid.low], grid.centres, [grid.high]])
    return float(np.sum(p * positions) / np.sum(p))


Distance = Callable[[np.ndarray, np.ndarray], float]
"""(reference, model) → distance of two ensemble means."""


def distances(observable: Observable) -> dict[str, Distance]:
    """The distances that make sense for an observable, by name; each takes two means over frames."""
    of, grid = observable.of_mean, observable.grid
    if grid is None or of(np.ones(observable.shape)).shape != observable.shape:
        return {
            "mean_absolute": lambda p, q: mean_absolute_difference(of(p), of(q)),
            "mse": lambda p, q: mean_squared_difference(of(p), of(q)),
        }
    return {
        "jensen_shannon": jensen_shannon,
        "kullback_leibler": kullback_leibler,
        "wasserstein": lambda p, q: wasserstein(p, q, grid),
        "mse": mean_squared_difference,
    }


class Compared(NamedTuple):
    """One distance. stderr: bootstrap over the groups of both sides, NaN where one side has a single group.

    floor, floor_spread: mean and standard deviation over the ways to halve the reference, NaN without.
    """

    value: float
    stderr: float
    floor: float
    floor_spread: float


def compared(
    observable: Observable,
    reference: Estimate,
    model: Estimate,
    draws: int = 200,
    splits: int = 50,
    seed: int = 0,
) -> dict[str, Compared]:
    """Every distance of an observable between two estimates, with its error and its noise floor.

    The floor is the reference against itself: half of its groups against the other half, over all ways to
    halve them or `splits` random ones. Each side of it has half the data, so that a model as good as the
    reference, with as many groups, lies below the floor rather than on it.
    """
    named = distances(observable)

    def all_of(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return np.array([distance(p, q) for distance in named.values()])

    value = all_of(reference.groups.mean(0), model.groups.mean(0))
    stderr = np.full(len(named), np.nan)
    if min(len(reference.groups), len(model.groups)) > 1:
        stderr = resampled([reference.groups, model.groups], all_of, draws, seed).std(0, ddof=1)
    floor = spread = np.full(len(named), np.nan)
    if len(reference.groups) > 1:
        found = np.stack(
            [all_of(*halves) for halves in halved(reference.groups, splits, np.random.default_rng(seed))]
        )
        floor = found.mean(0)
        spread = found.std(0, ddof=1) if len(found) > 1 else spread
    columns = (value, stderr, floor, spread)
    return {name: Compared(*(float(c[k]) for c in columns)) for k, name in enumerate(named)}


def floor_of_entries(
    observable: Observable, reference: Estimate, splits: int = 50, seed: int = 0
) -> np.ndarray:
    """Mean |half - other half| of every entry of what is compared, over the halves of `compared`.

    What the noise of the reference makes of each bin or contact: NaN from a single group.
    """
    if len(reference.groups) < 2:
        return np.full(np.shape(reference.mean), np.nan)
    halves = halved(reference.groups, splits, np.random.default_rng(seed))
    return np.mean([np.abs(observable.of_mean(a) - observable.of_mean(b)) for a, b in halves], axis=0)


def halved(groups: np.ndarray, splits: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Means of the two halves of the groups: each way to halve them once, or `splits` random ways."""
    g = len(groups)
    half = g // 2
    # of an even number each split would come twice: the first group is kept in the first half
    first = [0] if g % 2 == 0 else []
    rest = np.arange(len(first), g)
    if comb(len(rest), half - len(first)) <= splits:
        chosen = [[*first, *part] for part in combinations(rest.tolist(), half - len(first))]
    else:
        chosen = [rng.permutation(g)[:half].tolist() for _ in range(splits)]
    return [(groups[part].mean(0), np.delete(groups, part, axis=0).mean(0)) for part in chosen]
