"""When a replica has failed. Each criterion is one predicate over a packed frame: True = this graph failed.

Criteria and thresholds for one bead per residue: see config.running.Criteria. A replica keeps its first
failure; within one step the order is that of `Status` (a state that is not finite says nothing else).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from cgrefine import geometry, residues
from cgrefine.config.running import Criteria
from cgrefine.geometry import AnyArray
from cgrefine.status import Status
from cgrefine.system import System

CIS_PROLINE_A = 2.95
"""Cα-Cα distance across a cis peptide bond before proline, Å; the trans one is 3.80."""

SMALLEST_SIZED_CHAIN = 8
"""Shorter chains have no limits on Rg: a few residues may well be straight."""


class Checks(NamedTuple):
    """What the predicates need. Made once on the host by `checks`, an argument of jitted functions.

    bonds (b, 2), r0 (b,) Å, may_be_cis (b,), bond_mask (b,); seconds (s, 2), second_mask (s,): beads i
    and i+2; pairs (p, 2): unpadded pairs with the overlap separation; rg_low, rg_high (g,) Å;
    the scalars are the thresholds of Criteria.
    """

    bonds: np.ndarray
    r0: np.ndarray
    may_be_cis: np.ndarray
    bond_mask: np.ndarray
    seconds: np.ndarray
    second_mask: np.ndarray
    pairs: np.ndarray
    rg_low: np.ndarray
    rg_high: np.ndarray
    bond_deviation: np.ndarray
    second_min: np.ndarray
    overlap_min: np.ndarray
    max_force: np.ndarray
    max_kinetic_kT: np.ndarray


class Motion(NamedTuple):
    """One frame: positions, momenta, forces (n, 3); energies, mass, kT (n,), internal units."""

    positions: AnyArray
    momenta: AnyArray
    forces: AnyArray
    energies: AnyArray
    mass: AnyArray
    kT: AnyArray


def checks(system: System, r0: np.ndarray, criteria: Criteria) -> Checks:
    """Bring the criteria into arrays for one packed system.

    r0: (b,) usual length of each bond of the system, Å (padding: any value). Raises ValueError when
    its length is not the number of bonds.
    """
    if np.shape(r0) != system.bond_mask.shape:
        raise ValueError(f"r0 has shape {np.shape(r0)}, the system has {system.bond_mask.shape[0]} bonds")
    low, high = size_limits(system) if criteria.size_limits else _no_limits(system)
    return Checks(
        bonds=system.bonds,
        r0=np.asarray(r0, np.float64),
        may_be_cis=system.bond_types % residues.N_SPECIES == residues.PRO,
        bond_mask=system.bond_mask,
        seconds=system.angles[:, [0, 2]],
        second_mask=system.angle_mask,
        pairs=_separated_pairs(system, criteria.overlap_separation),
        rg_low=low,
        rg_high=high,
        bond_deviation=np.asarray(criteria.bond_deviation_A),
        second_min=np.asarray(criteria.second_neighbor_min_A),
        overlap_min=np.asarray(criteria.overlap_min_A),
        max_force=np.asarray(criteria.max_force_kcal_mol_A),
        max_kinetic_kT=np.asarray(criteria.max_kinetic_kT),
    )


def reference_bond_lengths(positions: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Median trans length of each bond in reference frames (f, n, 3), Å; 3.8 where no frame is trans."""
    x = np.asarray(positions, np.float64)
    r = np.linalg.norm(x[:, bonds[:, 1]] - x[:, bonds[:, 0]], axis=-1)
    trans = np.abs(r - CIS_PROLINE_A) > 0.4
    typical = [np.median(r[trans[:, b], b]) if trans[:, b].any() else 3.8 for b in range(len(bonds))]
    return np.asarray(typical, np.float32)


def size_limits(system: System) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest credible Rg of each graph, (g,) and (g,) Å; 0 and inf for short chains.

    Collapse: 1.6 n^0.38 (folded proteins are near 2.2 n^0.38). Rod: 0.9 of n beads in line, 3.8 Å
    apart, Rg = 3.8 sqrt((n² - 1)/12). A molecule of several chains has no upper limit.
    """
    low, high = _no_limits(system)
    for g in np.flatnonzero(system.graph_mask):
        beads = (system.graph_id == g) & system.bead_mask
        n = int(beads.sum())
        if n < SMALLEST_SIZED_CHAIN:
            continue
        low[g] = 1.6 * n**0.38
        if np.ptp(system.sequence[beads]) == n - 1:
            high[g] = 0.9 * 3.8 * np.sqrt((n * n - 1) / 12.0)
    return low, high


def first_failure(
    limits: Checks, motion: Motion, system: System, status: Int[Array, " graphs"]
) -> Int[Array, " graphs"]:
    """Status of each graph after this frame: an earlier failure is kept, else the first criterion met."""
    found = {
        Status.NON_FINITE: non_finite(motion, system),
        Status.BOND: broken_bond(limits, motion, system),
        Status.SECOND_NEIGHBOR: close_second_neighbor(limits, motion, system),
        Status.OVERLAP: overlap(limits, motion, system),
        Status.FORCE: large_force(limits, motion, system),
        Status.KINETIC: fast_bead(limits, motion, system),
        Status.SIZE: wrong_size(limits, motion, system),
    }
    for code, failed in found.items():
        status = jnp.where((status == Status.OK) & failed, jnp.asarray(code, status.dtype), status)
    return status


def non_finite(motion: Motion, system: System) -> Bool[Array, " graphs"]:
    """A position, momentum, force or energy is not finite."""
    both = jnp.concatenate([motion.positions, motion.momenta, motion.forces], axis=1)
    finite = jnp.all(jnp.isfinite(both), axis=1) & jnp.isfinite(motion.energies)
    return _any_bead(~finite, system)


def broken_bond(limits: Checks, motion: Motion, system: System) -> Bool[Array, " graphs"]:
    """A bond is further from its usual length than allowed; before proline the cis length is usual too."""
    r = geometry.bond_lengths(motion.positions, jnp.asarray(limits.bonds))
    deviation = jnp.abs(r - limits.r0)
    cis = jnp.where(limits.may_be_cis, jnp.abs(r - CIS_PROLINE_A), deviation)
    bad = jnp.asarray(limits.bond_mask) & (jnp.minimum(deviation, cis) > limits.bond_deviation)
    return _any_pair(bad, limits.bonds, system)


def close_second_neighbor(limits: Checks, motion: Motion, system: System) -> Bool[Array, " graphs"]:
    """Beads i and i+2 are closer than allowed: the chain folds back on itself."""
    r = geometry.bond_lengths(motion.positions, jnp.asarray(limits.seconds))
    return _any_pair(jnp.asarray(limits.second_mask) & (r < limits.second_min), limits.seconds, system)


def overlap(limits: Checks, motion: Motion, system: System) -> Bool[Array, " graphs"]:
    """Two beads at or above the overlap separation are closer than allowed."""
    i, j = jnp.asarray(limits.pairs[:, 0]), jnp.asarray(limits.pairs[:, 1])
    vectors = motion.positions[j] - motion.positions[i]
    return _any_pair(jnp.sum(vectors * vectors, axis=1) < limits.overlap_min**2, limits.pairs, system)


def large_force(limits: Checks, motion: Motion, system: System) -> Bool[Array, " graphs"]:
    """The force on a bead is larger than allowed."""
    return _any_bead(jnp.sum(motion.forces**2, axis=1) > limits.max_force**2, system)


def fast_bead(limits: Checks, motion: Motion, system: System) -> Bool[Array, " graphs"]:
    """The kinetic energy of a bead exceeds the allowed multiple of its kT."""
    kinetic = jnp.sum(motion.momenta**2, axis=1) / (2.0 * motion.mass)
    return _any_bead(kinetic > limits.max_kinetic_kT * motion.kT, system)


def wrong_size(limits: Checks, motion: Motion, system: System) -> Bool[Array, " graphs"]:
    """The radius of gyration (all beads weighing the same) is outside the limits of its graph."""
    n_graphs, graph = limits.rg_low.shape[0], jnp.asarray(system.graph_id)
    weight = jnp.asarray(system.bead_mask).astype(motion.positions.dtype)
    x = geometry.masked_rows(motion.positions, jnp.asarray(system.bead_mask))
    count = jnp.maximum(jax.ops.segment_sum(weight, graph, n_graphs), 1.0)
    centre = jax.ops.segment_sum(x, graph, n_graphs) / count[:, None]
    squared = weight * jnp.sum((x - centre[graph]) ** 2, axis=1)
    rg = jnp.sqrt(jax.ops.segment_sum(squared, graph, n_graphs) / count)
    return jnp.asarray(system.graph_mask) & ((rg < limits.rg_low) | (rg > limits.rg_high))


def _no_limits(system: System) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(len(system.graph_mask)), np.full(len(system.graph_mask), np.inf)


def _separated_pairs(system: System, separation: int) -> np.ndarray:
    parts = [np.zeros((0, 2), np.int32)]
    for g in np.flatnonzero(system.graph_mask):
        beads = np.flatnonzero((system.graph_id == g) & system.bead_mask)
        i, j = np.triu_indices(len(beads), 1)
        far = np.abs(system.sequence[beads[j]] - system.sequence[beads[i]]) >= separation
        parts.append(np.stack([beads[i[far]], beads[j[far]]], axis=1).astype(np.int32))
    return np.concatenate(parts)


def _any_bead(bad: Bool[Array, " beads"], system: System) -> Bool[Array, " graphs"]:
    return _any(bad & jnp.asarray(system.bead_mask), jnp.asarray(system.graph_id), system)


def _any_pair(
    bad: Bool[Array, " n"], pairs: Int[Array | np.ndarray, "n 2"], system: System
) -> Bool[Array, " graphs"]:
    return _any(bad, jnp.asarray(system.graph_id)[jnp.asarray(pairs)[:, 0]], system)


def _any(bad: Bool[Array, " n"], graph: Int[Array, " n"], system: System) -> Bool[Array, " graphs"]:
    hits = jax.ops.segment_sum(bad.astype(jnp.int32), graph, system.graph_mask.shape[0])
    return hits > 0


class Culprit(NamedTuple):
    """What met a criterion. beads: indices in the molecule, none for a criterion on all of it; residues:
    their names; value: found, NaN where that is the finding; limit: allowed; text: in words, with units."""

    status: Status
    beads: tuple[int, ...]
    residues: tuple[str, ...]
    value: float
    limit: float
    text: str


def culprit(limits: Checks, motion: Motion, system: System, graph: int, status: Status) -> Culprit:
    """The bead, bond or pair of one graph that is furthest past the criterion it failed by (host, numpy).

    motion: the state that failed. status: the criterion, as the run found it: near a limit the rounding of
    another order of operations could decide otherwise. Raises ValueError on a status that is no failure of a
    frame.
    """
    if status not in _OFFENDERS:
        raise ValueError(
            f"status {status.name} is no criterion on a frame; there are {[s.name for s in _OFFENDERS]}"
        )
    x, p, f = (np.asarray(part, np.float64) for part in motion[:3])
    energies, mass, kT = (np.asarray(part, np.float64) for part in motion[3:])
    mine = (np.asarray(system.graph_id) == graph) & np.asarray(system.bead_mask)
    with np.errstate(over="ignore", invalid="ignore"):
        beads, value, limit, what = _OFFENDERS[status](
            limits, Motion(x, p, f, energies, mass, kT), mine, graph
        )
    first = int(np.argmax(mine))
    names = tuple(residues.RESIDUES[int(system.species[b])] for b in beads)
    where = " and ".join(f"{name} (bead {b - first})" for name, b in zip(names, beads, strict=True))
    text = what.format(where=where, value=value, limit=limit)
    return Culprit(status, tuple(int(b) - first for b in beads), names, float(value), float(limit), text)


Offender = tuple[Sequence[int] | np.ndarray, float, float, str]
"""Packed beads, value, limit, and a sentence to fill in."""


def _non_finite_bead(limits: Checks, motion: Motion, mine: np.ndarray, graph: int) -> Offender:
    for name, values in motion._asdict().items():
        flat = values.reshape(len(mine), -1)
        bad = np.flatnonzero(mine & ~np.isfinite(flat).all(axis=1))
        if len(bad):
            b = int(bad[0])
            value = flat[b, np.argmin(np.isfinite(flat[b]))]
            what = (
                "momentum"
                if name == "momenta"
                else "energy"
                if name == "energies"
                else name.removesuffix("s")
            )
            others = f", {len(bad)} beads in all" if len(bad) > 1 else ""
            return [b], value, math.nan, f"{what} of {{where}} is {{value}}{others}"
    raise ValueError(f"the state of graph {graph} is finite")


def _worst_bond(limits: Checks, motion: Motion, mine: np.ndarray, graph: int) -> Offender:
    bonds = np.asarray(limits.bonds)
    r = _lengths(motion.positions, bonds)
    deviation = np.abs(r - limits.r0)
    cis = np.where(limits.may_be_cis, np.abs(r - CIS_PROLINE_A), deviation)
    b = _largest(np.minimum(deviation, cis), mine[bonds[:, 0]] & limits.bond_mask)
    usual = CIS_PROLINE_A if cis[b] < deviation[b] else float(limits.r0[b])
    allowed = usual + math.copysign(float(limits.bond_deviation), r[b] - usual)
    return bonds[b], r[b], allowed, "bond of {where} is {value:.4g} Å, limit {limit:.4g} Å"


def _worst_second(limits: Checks, motion: Motion, mine: np.ndarray, graph: int) -> Offender:
    seconds = np.asarray(limits.seconds)
    r = _lengths(motion.positions, seconds)
    b = _largest(-r, mine[seconds[:, 0]] & limits.second_mask)
    return seconds[b], r[b], float(limits.second_min), _APART


def _worst_overlap(limits: Checks, motion: Motion, mine: np.ndarray, graph: int) -> Offender:
    pairs = np.asarray(limits.pairs)
    r = _lengths(motion.positions, pairs)
    b = _largest(-r, mine[pairs[:, 0]])
    return pairs[b], r[b], float(limits.overlap_min), _APART


def _worst_force(limits: Checks, motion: Motion, mine: np.ndarray, graph: int) -> Offender:
    size = np.linalg.norm(motion.forces, axis=1)
    b = _largest(size, mine)
    text = "force on {where} is {value:.4g} kcal/mol/Å, limit {limit:.4g} kcal/mol/Å"
    return [b], size[b], float(limits.max_force), text


def _fastest(limits: Checks, motion: Motion, mine: np.ndarray, graph: int) -> Offender:
    kinetic = np.sum(motion.momenta**2, axis=1) / (2.0 * motion.mass) / np.where(mine, motion.kT, 1.0)
    b = _largest(kinetic, mine)
    text = "kinetic energy of {where} is {value:.4g} kT, limit {limit:.4g} kT"
    return [b], kinetic[b], float(limits.max_kinetic_kT), text


def _size(limits: Checks, motion: Motion, mine: np.ndarray, graph: int) -> Offender:
    x = motion.positions[mine]
    rg = math.sqrt(np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=1)))
    low, high = float(limits.rg_low[graph]), float(limits.rg_high[graph])
    limit = low if abs(rg - low) < abs(rg - high) else high
    return [], rg, limit, "radius of gyration is {value:.4g} Å, limit {limit:.4g} Å"


_APART = "{where} are {value:.4g} Å apart, limit {limit:.4g} Å"
_OFFENDERS: dict[Status, Callable[[Checks, Motion, np.ndarray, int], Offender]] = {
    Status.NON_FINITE: _non_finite_bead,
    Status.BOND: _worst_bond,
    Status.SECOND_NEIGHBOR: _worst_second,
    Status.OVERLAP: _worst_overlap,
    Status.FORCE: _worst_force,
    Status.KINETIC: _fastest,
    Status.SIZE: _size,
}
"""The one furthest past each criterion."""


def _lengths(x: AnyArray, pairs: np.ndarray) -> np.ndarray:
    at = np.asarray(x)
    return np.linalg.norm(at[pairs[:, 1]] - at[pairs[:, 0]], axis=1)


def _largest(values: np.ndarray, among: np.ndarray) -> int:
    return int(np.argmax(np.where(among, values, -np.inf)))
