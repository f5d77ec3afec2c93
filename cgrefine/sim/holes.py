"""Search for holes of an energy: perturbed reference structures that it does not push back (numpy).

Three kinds of perturbation of a frame, each along a path on which little else changes:
    bond       all beads after a bond moved along it: this length changes, and distances across it;
    angle,     all beads after a hinge turned about it, in the plane of two beads on either side: their
    pair       distance changes, and the angle and torsions at the hinge;
    random     every coordinate displaced by noise of graded size.
A path has a hole where, past a distance that no healthy molecule reaches, the energy no longer rises, and
the barrier up to there is one that a simulation climbs. A random displacement has one where the energy is
below that of all reference frames.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cgrefine.residues import N_SPECIES, PRO
from cgrefine.system import Topology


class Limits(NamedTuple):
    """What counts as a hole. Å, and kT of the simulation.

    bond_A: deviation of a bond from its usual length from where on it must be pushed back; second_A,
    overlap_A: distances of i,i+2 and of pairs below which they must be; reach_A: each is followed so much
    further; pull_kT_A: the least push back; barrier_kT: higher ones keep a simulation out; margin_kT: below
    the lowest reference energy.
    """

    bond_A: float
    second_A: float
    overlap_A: float
    overlap_separation: int
    reach_A: float = 1.0
    pull_kT_A: float = 1.0
    barrier_kT: float = 25.0
    margin_kT: float = 10.0


class Path(NamedTuple):
    """Structures (k, n, 3) Å along one path from a frame, the frame itself first, and the distance (k,) Å.

    kind: bond, angle or pair; beads: the two whose distance it is; `watched` (k,): past what is healthy.
    """

    kind: str
    beads: tuple[int, int]
    structures: np.ndarray
    distance_A: np.ndarray
    watched: np.ndarray


class Hole(NamedTuple):
    """A hole: kind of perturbation and beads; where it begins, Å (random: size of the displacement).

    barrier_kT: energy on the way there above the start; depth_kT: how far it falls beyond that (random: below
    the lowest reference energy); frames: in how many of the frames that were tried it was found.
    """

    kind: str
    beads: tuple[int, ...]
    at_A: float
    barrier_kT: float
    depth_kT: float
    frames: int


STEP_A = {"bond": 0.1, "angle": 0.2, "pair": 0.2}
"""Step along a path of each kind."""

MAX_PAIRS = 30
"""Close pairs followed in a frame."""

NEAR_A = 8.0
"""Pairs further apart than this are not brought together: the turn would be large."""

SIZES_A = (0.1, 0.2, 0.4, 0.8, 1.2)
"""Standard deviations of the random displacements of each coordinate."""


def paths(topology: Topology, frame: np.ndarray, r0: np.ndarray, limits: Limits) -> list[Path]:
    """All paths from a frame (n, 3): each bond stretched and compressed, each angle, the closest pairs.

    r0 (b,): usual lengths. Bonds before proline are not compressed: cis is a state of theirs.
    """
    found = []
    may_be_cis = topology.bond_types % N_SPECIES == PRO
    for (i, j), usual, cis in zip(topology.bonds, r0, may_be_cis, strict=True):
        found.append(_bond_path(topology, frame, (int(i), int(j)), float(usual), 1.0, limits))
        if not cis:
            found.append(_bond_path(topology, frame, (int(i), int(j)), float(usual), -1.0, limits))
    for i, j, k in topology.angles:
        path = _hinge_path(topology, frame, (int(i), int(k)), int(j), "angle", limits.second_A, limits)
        found += [] if path is None else [path]
    for i, k in _close_pairs(topology, frame, limits.overlap_separation):
        path = _hinge_path(topology, frame, (i, k), None, "pair", limits.overlap_A, limits)
        found += [] if path is None else [path]
    return found


def displaced(frame: np.ndarray, seed: int) -> np.ndarray:
    """The frame (n, 3) with noise of each size in SIZES_A, (sizes, n, 3): one direction, so graded."""
    noise = np.random.default_rng(seed).standard_normal(frame.shape)
    return frame + np.asarray(SIZES_A)[:, None, None] * noise


def hole_of_path(path: Path, energies: np.ndarray, kT: float, limits: Limits) -> Hole | None:
    """The hole of a path with energies (k,) kcal/mol, or None. An energy that is not finite is one."""
    u = np.where(np.isfinite(energies), energies, -np.inf) / kT
    with np.errstate(invalid="ignore"):
        rise = np.diff(u) / np.abs(np.diff(path.distance_A))
    climbed = np.maximum.accumulate(u)[:-1] - u[0]
    bad = path.watched[:-1] & ~(rise >= limits.pull_kT_A) & (climbed <= limits.barrier_kT)
    if not bad.any():
        return None
    k = int(np.argmax(bad))
    depth = float(max(u[k] - u[k + 1 :].min(), 0.0)) if np.isfinite(u[k]) else np.inf
    return Hole(path.kind, path.beads, float(path.distance_A[k]), float(climbed[k]), depth, 1)


def hole_of_displacement(
    per_bead: np.ndarray, reference: np.ndarray, start: int, kT: float, limits: Limits
) -> Hole | None:
    """The hole that a displaced frame fell into, or None; the bead whose energy fell most is named.

    per_bead (sizes, n): energies of the displaced frame, kcal/mol; reference (f, n): those of the frames;
    start: which of them was displaced.
    """
    lowest = reference.sum(axis=1).min()
    totals = per_bead.sum(axis=1)
    low = ~(totals >= lowest - limits.margin_kT * kT)
    if not low.any():
        return None
    k = int(np.argmax(low))
    climbed = (np.maximum.accumulate(totals)[k] - reference[start].sum()) / kT
    change = np.where(np.isfinite(per_bead[k]), per_bead[k] - reference[start], -np.inf)
    depth = float((lowest - totals[k]) / kT) if np.isfinite(totals[k]) else np.inf
    barrier = float(max(climbed, 0.0)) if np.isfinite(climbed) else 0.0
    return Hole("random", (int(np.argmin(change)),), SIZES_A[k], barrier, depth, 1)


def merged(found: Sequence[Hole]) -> list[Hole]:
    """One hole for each kind and beads, that with the lowest barrier, with the number of frames; in order."""
    groups: dict[tuple[str, tuple[int, ...]], list[Hole]] = {}
    for hole in found:
        groups.setdefault((hole.kind, hole.beads), []).append(hole)
    best = [min(own, key=lambda h: h.barrier_kT)._replace(frames=len(own)) for own in groups.values()]
    return sorted(best, key=lambda h: h.barrier_kT)


def _bond_path(
    topology: Topology, frame: np.ndarray, bond: tuple[int, int], usual: float, sign: float, limits: Limits
) -> Path:
    """Longer (sign 1) or shorter (-1) from the frame's own length to the reach past the watched deviation."""
    i, j = bond
    vector = frame[j] - frame[i]
    length = float(np.linalg.norm(vector))
    end = usual + sign * (limits.bond_A + limits.reach_A)
    distance = _steps(length, end, STEP_A["bond"])
    moved = _after(topology, i)
    shift = (distance - length)[:, None] * (vector / length)
    structures = np.repeat(frame[None], len(distance), axis=0)
    structures[:, moved] += shift[:, None, :]
    return Path("bond", bond, structures, distance, sign * (distance - usual) >= limits.bond_A - 1e-9)


def _hinge_path(
    topology: Topology,
    frame: np.ndarray,
    pair: tuple[int, int],
    hinge: int | None,
    kind: str,
    from_A: float,
    limits: Limits,
) -> Path | None:
    """Two beads brought together from the frame's distance to the reach below from_A; None: out of reach.

    The hinge is the bead between them that is most nearly as far from the one as from the other.
    """
    i, k = pair
    between = np.arange(i + 1, k)
    if hinge is None:
        arms = (
            np.linalg.norm(frame[between] - frame[i], axis=1),
            np.linalg.norm(frame[between] - frame[k], axis=1),
        )
        hinge = int(between[np.argmin(np.abs(arms[0] - arms[1]))])
    a, b = frame[i] - frame[hinge], frame[k] - frame[hinge]
    length_a, length_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    axis = np.cross(b, a)
    if np.linalg.norm(axis) < 1e-6 * length_a * length_b:
        return None
    closest = max(from_A - limits.reach_A, abs(length_a - length_b) + 0.05, 0.1)
    distance = _steps(float(np.linalg.norm(frame[k] - frame[i])), closest, STEP_A[kind])
    watched = distance <= from_A + 1e-9
    if watched.sum() < 2:
        return None
    now = np.arctan2(np.linalg.norm(axis), a @ b)
    cosine = (length_a**2 + length_b**2 - distance**2) / (2 * length_a * length_b)
    turns = now - np.arccos(np.clip(cosine, -1.0, 1.0))
    moved = _after(topology, hinge)
    structures = np.repeat(frame[None], len(distance), axis=0)
    arms = frame[moved] - frame[hinge]
    for s, turn in enumerate(turns):
        structures[s, moved] = frame[hinge] + _turned(arms, axis / np.linalg.norm(axis), turn)
    return Path(kind, pair, structures, distance, watched)


def _steps(start: float, end: float, step: float) -> np.ndarray:
    """From start to end in equal steps of about that size; two points at least."""
    return np.linspace(start, end, max(2, 1 + round(abs(end - start) / step)))


def _turned(vectors: np.ndarray, axis: np.ndarray, angle: float) -> np.ndarray:
    """Vectors (m, 3) turned by an angle, rad, about a unit axis (Rodrigues)."""
    along = (vectors @ axis)[:, None] * axis
    return along + np.cos(angle) * (vectors - along) + np.sin(angle) * np.cross(axis, vectors)


def _after(topology: Topology, bead: int) -> np.ndarray:
    """Beads after this one in its unbroken stretch of chain, as indices."""
    beads = np.arange(topology.n_beads)
    same = topology.sequence - beads == topology.sequence[bead] - bead
    return np.flatnonzero(same & (beads > bead))


def _close_pairs(topology: Topology, frame: np.ndarray, separation: int) -> list[tuple[int, int]]:
    """Pairs of one stretch at that separation or more, the closest MAX_PAIRS of those within NEAR_A."""
    i, j = np.triu_indices(topology.n_beads, 1)
    apart = topology.sequence[j] - topology.sequence[i]
    ok = (apart >= separation) & (apart == j - i)
    r = np.linalg.norm(frame[j] - frame[i], axis=1)
    ok &= r < NEAR_A
    chosen = np.flatnonzero(ok)[np.argsort(r[ok])][:MAX_PAIRS]
    return [(int(a), int(b)) for a, b in zip(i[chosen], j[chosen], strict=True)]
