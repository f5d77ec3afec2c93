"""Distances between a model's and the reference's distributions, and between contact maps."""

import numpy as np
from jaxtyping import Float

from cgrefine.observables.histogram import Bins


def jensen_shannon(p: Float[np.ndarray, " n"], q: Float[np.ndarray, " n"]) -> float:
    """Jensen-Shannon divergence of two histograms of unit mass, nats: 0 if equal, ln 2 if disjoint.

    Lin, IEEE Trans. Inf. Theory 37, 145 (1991). Biased upwards by about (bins in use)/(8 N) at N samples.
    """
    mixed = 0.5 * (p + q)

    def relative(a: np.ndarray) -> float:
        used = a > 0
        return float(np.sum(a[used] * np.log(a[used] / mixed[used])))

    return 0.5 * relative(p) + 0.5 * relative(q)


def wasserstein(p: Float[np.ndarray, " n"], q: Float[np.ndarray, " n"], grid: Bins) -> float:
    """Earth mover's distance of two histograms on one grid, in the unit of the coordinate.

    Area between the two cumulative distributions; overflow mass counts as sitting at the outer edges.
    """
    difference = np.cumsum(p - q)[:-1]
    inner = np.full(grid.count + 1, grid.width)
    inner[[0, -1]] = 0.5 * grid.width
    return float(np.sum(np.abs(difference) * inner))


def mean_absolute_difference(p: Float[np.ndarray, " n"], q: Float[np.ndarray, " n"]) -> float:
    """Mean |p - q|, for contact probabilities."""
    return float(np.mean(np.abs(p - q)))


def histogram_mean(p: Float[np.ndarray, " n"], grid: Bins) -> float:
    """Mean of the coordinate, with overflow mass at the outer edges."""
    positions = np.concatenate([[grid.low], grid.centres, [grid.high]])
    return float(np.sum(p * positions) / np.sum(p))
