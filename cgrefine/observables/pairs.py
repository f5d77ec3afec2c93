"""P(r): the distribution of Cα-Cα distances. An isolated chain has no density, so this is no g(r)."""

import numpy as np

from cgrefine import geometry
from cgrefine.observables.histogram import bins, mass
from cgrefine.observables.structure import Observable
from cgrefine.system import Topology


def separated_pairs(topology: Topology, min_separation: int) -> np.ndarray:
    """(p, 2) unique pairs i < j at least min_separation apart along the chain (across breaks: always)."""
    i, j = np.triu_indices(topology.n_beads, k=1)
    apart = np.abs(topology.sequence[j] - topology.sequence[i]) >= min_separation
    return np.stack([i[apart], j[apart]], axis=1).astype(np.int32)


def distance_distribution(
    topology: Topology, width_A: float, max_A: float, min_separation: int = 3
) -> Observable | None:
    """Histogram over unique pairs with |i-j| >= min_separation, 0 to max_A; mass beyond is kept as overflow.

    None when the chain has no such pair.
    """
    pairs = separated_pairs(topology, min_separation)
    if not len(pairs):
        return None
    grid = bins(0.0, max_A, width_A)
    return Observable("P(r)", "Å", (grid.size,), lambda x: mass(geometry.bond_lengths(x, pairs), grid), grid)
