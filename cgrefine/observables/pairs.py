"""Distributions of distances: P(r), distances along the chain, and the RDF of periodic systems.

An isolated chain has no density, so its P(r) is no g(r). smear: see `histogram.mass`.
"""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from cgrefine import geometry
from cgrefine.errors import InputError
from cgrefine.geometry import AnyArray
from cgrefine.observables.histogram import Bins, bins, mass
from cgrefine.observables.structure import BOND_A, Observable
from cgrefine.system import Topology


def separated_pairs(topology: Topology, min_separation: int) -> np.ndarray:
    """(p, 2) unique pairs i < j at least min_separation apart along the chain (across breaks: always)."""
    i, j = np.triu_indices(topology.n_beads, k=1)
    apart = np.abs(topology.sequence[j] - topology.sequence[i]) >= min_separation
    return np.stack([i[apart], j[apart]], axis=1).astype(np.int32)


def chain_pairs(topology: Topology, separation: int) -> np.ndarray:
    """(p, 2) pairs i, i + separation with no chain break between them."""
    first = np.arange(max(topology.n_beads - separation, 0))
    second = first + separation
    linked = topology.sequence[second] - topology.sequence[first] == separation
    return np.stack([first[linked], second[linked]], axis=1).astype(np.int32)


def distance_distribution(
    topology: Topology, width_A: float, max_A: float, min_separation: int = 3, smear_A: float = 0.0
) -> Observable | None:
    """Histogram over unique pairs with |i-j| >= min_separation, 0 to max_A; mass beyond is kept as overflow.

    None when the chain has no such pair.
    """
    return _of_pairs("P(r)", separated_pairs(topology, min_separation), bins(0.0, max_A, width_A), smear_A)


def neighbor_distribution(
    topology: Topology, separation: int, width_A: float, smear_A: float = 0.0
) -> Observable | None:
    """Histogram of the distances i, i + separation, from 0 to those of a chain stretched out.

    None when the chain has no such pair.
    """
    grid = bins(0.0, BOND_A * separation + 1.0, width_A)
    return _of_pairs(f"i,i+{separation}", chain_pairs(topology, separation), grid, smear_A)


def periodic_distances(
    positions: Float[AnyArray, "beads 3"], pairs: Int[AnyArray, "n 2"], box_A: Float[AnyArray, " 3"]
) -> Float[Array, " n"]:
    """Distance to the nearest image in a rectangular box of edges box_A, Å, for each pair."""
    apart = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    box = jnp.asarray(box_A, apart.dtype)
    return geometry.safe_norm(apart - box * jnp.round(apart / box))


def radial_distribution(
    pairs: Int[np.ndarray, "n 2"], box_A: Float[np.ndarray, " 3"], width_A: float, max_A: float | None = None
) -> Observable:
    """g(r) of a periodic system at constant volume over the given pairs, in a rectangular box of edges box_A.

    per_frame is the histogram of nearest-image distances with its overflow, like P(r); of_mean divides it by
    what as many pairs of an ideal gas have in each shell, 4π/3 (r₂³ - r₁³)/V, and gives (bins,). Spherical
    shells are whole up to half the shortest edge, the default max_A. Raises InputError beyond it.
    """
    box = np.asarray(box_A, np.float64)
    half = 0.5 * float(box.min())
    reach = half if max_A is None else max_A
    if reach > half:
        raise InputError(
            f"RDF: max_A = {reach:g} Å is beyond half the shortest edge of the box, {half:g} Å, where shells "
            "are cut by its walls"
        )
    grid = bins(0.0, reach, width_A)
    ideal = shell_volumes(grid) / np.prod(box)

    def per_frame(x):
        return mass(periodic_distances(x, pairs, box), grid)

    return Observable("RDF", "Å", (grid.size,), per_frame, grid, lambda histogram: histogram[1:-1] / ideal)


def shell_volumes(grid: Bins) -> Float[np.ndarray, " count"]:
    """Volume of the spherical shell of each bin, Å³: 4π/3 (r₂³ - r₁³), not 4πr²Δr."""
    return 4.0 / 3.0 * np.pi * np.diff(grid.edges**3)


def intermolecular_pairs(molecule: Int[np.ndarray, " beads"]) -> np.ndarray:
    """(p, 2) unique pairs i < j of beads of different molecules. molecule: number of each bead's one."""
    i, j = np.triu_indices(len(molecule), k=1)
    apart = molecule[i] != molecule[j]
    return np.stack([i[apart], j[apart]], axis=1).astype(np.int32)


def minimum_distance(
    positions: Float[AnyArray, "beads 3"],
    pairs: Int[AnyArray, "n 2"],
    box_A: Float[AnyArray, " 3"] | None = None,
    smear_A: float = 0.0,
) -> Float[Array, ""]:
    """The shortest distance of the pairs, Å; with `intermolecular_pairs` that between molecules.

    box_A: of nearest images. smear_A = s: the smooth minimum -s ln Σ exp(-r/s), which lies at most s ln n
    below the smallest of n distances.
    """
    r = (
        geometry.bond_lengths(positions, pairs)
        if box_A is None
        else periodic_distances(positions, pairs, box_A)
    )
    return -smear_A * logsumexp(-r / smear_A) if smear_A else jnp.min(r)


def _of_pairs(name: str, pairs: np.ndarray, grid: Bins, smear_A: float) -> Observable | None:
    if not len(pairs):
        return None
    return Observable(
        name, "Å", (grid.size,), lambda x: mass(geometry.bond_lengths(x, pairs), grid, smear_A), grid
    )
