"""Frames that no criterion fails, and that the reference does not have: what a simulation is warned of.

A threshold is the looser of the given one and the furthest that a reference frame goes, so that no criterion
marks what the reference does itself.
"""

from typing import NamedTuple

import numpy as np

from cgrefine import geometry
from cgrefine.config.running import Unusual
from cgrefine.residues import N_SPECIES, PRO
from cgrefine.sim.stability import CIS_PROLINE_A, SMALLEST_SIZED_CHAIN
from cgrefine.system import Topology

HELIX_DEG = (20.0, 80.0)
"""Cα torsion of a right-handed helix, about 50°."""

HELICAL = 0.5
"""Share of reference frames from which on a torsion counts as one of a helix."""

NO_LIMIT = (0.0, np.inf)


class Worst(NamedTuple):
    """The furthest of each frame (f,): bond deviation, i,i+2 distance, distance of separated pairs, Rg, Å."""

    bond: np.ndarray
    second: np.ndarray
    closest: np.ndarray
    size: np.ndarray


class Limits(NamedTuple):
    """Of `Worst`: bonds above, distances below, and Rg outside are unusual."""

    bond: float
    second: float
    closest: float
    size: tuple[float, float]


def worst(topology: Topology, r0: np.ndarray, frames: np.ndarray, separation: int) -> Worst:
    """Of frames (f, n, 3) Å with usual bond lengths r0 (b,); inf where a chain has no such distance.

    Before proline the cis length is usual, too. separation: least |i - j| of pairs.
    """
    x = np.asarray(frames, np.float64)
    r = _distances(x, topology.bonds)
    deviation = np.abs(r - r0)
    cis = topology.bond_types % N_SPECIES == PRO
    deviation[:, cis] = np.minimum(deviation[:, cis], np.abs(r[:, cis] - CIS_PROLINE_A))
    i, j = np.triu_indices(topology.n_beads, 1)
    far = np.abs(topology.sequence[j] - topology.sequence[i]) >= separation
    pairs = np.stack([i[far], j[far]], axis=1)
    centred = x - x.mean(axis=1, keepdims=True)
    return Worst(
        deviation.max(axis=1, initial=0.0),
        _distances(x, topology.angles[:, [0, 2]]).min(axis=1, initial=np.inf),
        _distances(x, pairs).min(axis=1, initial=np.inf),
        np.sqrt((centred**2).sum(-1).mean(-1)),
    )


def limits(reference: Worst, given: Unusual, n_beads: int) -> Limits:
    """The looser of the given thresholds and the furthest of the reference; short chains have any size."""
    low, high = given.size_range
    sized = n_beads >= SMALLEST_SIZED_CHAIN
    return Limits(
        max(given.bond_deviation_A, float(reference.bond.max())),
        min(given.second_neighbor_min_A, float(reference.second.min())),
        min(given.overlap_min_A, float(reference.closest.min())),
        (low * float(reference.size.min()), high * float(reference.size.max())) if sized else NO_LIMIT,
    )


def beyond(found: Worst, allowed: Limits) -> dict[str, np.ndarray]:
    """Which frames (f,) are unusual, by name of what is."""
    low, high = allowed.size
    return {
        "bond": found.bond > allowed.bond,
        "second_neighbor": found.second < allowed.second,
        "overlap": found.closest < allowed.closest,
        "size": (found.size < low) | (found.size > high),
    }


def helical_torsions(topology: Topology, reference: np.ndarray) -> np.ndarray:
    """Dihedrals (k, 4) that are those of a right-handed helix in most reference frames (f, n, 3)."""
    degrees = np.rad2deg(_torsions(reference, topology.dihedrals))
    inside = (degrees > HELIX_DEG[0]) & (degrees < HELIX_DEG[1])
    return topology.dihedrals[inside.mean(axis=0) >= HELICAL]


def mirrored(helical: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Frames (f,) in which the torsions (k, 4) of helices are left-handed on average: mean sine below 0."""
    if not len(helical):
        return np.zeros(len(frames), bool)
    return np.sin(_torsions(frames, helical)).mean(axis=1) < 0.0


def _torsions(frames: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """(f, d) radians."""
    count, n = frames.shape[:2]
    every = (quads[None] + n * np.arange(count)[:, None, None]).reshape(-1, 4)
    flat = np.asarray(frames, np.float32).reshape(-1, 3)
    return np.asarray(geometry.dihedrals(flat, every.astype(np.int32))).reshape(count, len(quads))


def _distances(x: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, pairs[:, 1]] - x[:, pairs[:, 0]], axis=-1)
