"""Failure criteria that the reference itself does not break: the looser of the given and the data-driven.

Data-driven thresholds, with q the quantiles of all values in the reference frames:
    bond deviation      2 q(1 - 1e-5) of |r - r0|, r0 the usual lengths of each bond
    i,i+2 distance      q(1e-5) - 0.5 Å
    overlap             q(1e-5) - 0.8 Å of the separated pairs
    force on a bead     10 q(0.9999)
    kinetic energy      what no bead of a run exceeds by chance, see `highest_kinetic_kT`
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from cgrefine.config.running import Criteria
from cgrefine.residues import N_SPECIES, PRO
from cgrefine.sim.stability import CIS_PROLINE_A, reference_bond_lengths, size_limits
from cgrefine.system import Topology, pack

RARE = 1e-5
"""Tail of the values that the thresholds are set by."""

SMALLEST_A = 0.1
"""No distance criterion is loosened below this."""


CHANCE = 1e-3
"""Chance that any bead of a healthy run exceeds the kinetic energy allowed."""


class Threshold(NamedTuple):
    """One criterion: its name in `sim.criteria`, as given, as the data have it, and as it is used."""

    name: str
    given: float
    data: float
    used: float


class Reference(NamedTuple):
    """Reference frames of one molecule: positions, forces (f, n, 3), Å and kcal/mol/Å."""

    topology: Topology
    positions: np.ndarray
    forces: np.ndarray


def calibrated(
    references: Sequence[Reference], given: Criteria, bead_steps: float
) -> tuple[Criteria, list[Threshold]]:
    """The criteria loosened to what all references and a healthy run allow, and how each came about.

    bead_steps: beads of all replicas times the steps of the run.
    The limits on Rg are dropped when a reference frame is outside them (threshold 1 → 0).
    """
    values = [_of_one(r, given.overlap_separation) for r in references]
    deviation, second, overlap, force = (np.concatenate(part) for part in zip(*values, strict=True))
    data = {
        "bond_deviation_A": 2.0 * _quantile(deviation, 1.0 - RARE, -np.inf),
        "second_neighbor_min_A": _quantile(second, RARE, np.inf) - 0.5,
        "overlap_min_A": _quantile(overlap, RARE, np.inf) - 0.8,
        "max_force_kcal_mol_A": 10.0 * _quantile(force, 0.9999, -np.inf),
        "max_kinetic_kT": highest_kinetic_kT(bead_steps),
    }
    used = {
        name: max(SMALLEST_A, min(getattr(given, name), value))
        if name.endswith("min_A")
        else max(getattr(given, name), value)
        for name, value in data.items()
    }
    sized = given.size_limits and all(_within_limits(r) for r in references)
    rows = [Threshold(name, getattr(given, name), data[name], used[name]) for name in data]
    rows.append(Threshold("size_limits", float(given.size_limits), float(sized), float(sized)))
    return given.model_copy(update={**used, "size_limits": sized}), rows


def highest_kinetic_kT(bead_steps: float) -> float:
    """Kinetic energy, kT, that one of so many beads and steps exceeds with a probability of CHANCE at most.

    2 K/kT of a bead is χ² with 3 degrees of freedom; steps count as independent, which errs to the high side.
    """
    return float(0.5 * chi2.isf(CHANCE / bead_steps, 3))


def _of_one(reference: Reference, separation: int) -> tuple[np.ndarray, ...]:
    """Bond deviations, i,i+2 distances, distances of separated pairs, and forces of all frames, flat."""
    chain, x = reference.topology, np.asarray(reference.positions, np.float64)
    r = _distances(x, chain.bonds)
    r0 = reference_bond_lengths(x, chain.bonds)
    deviation = np.abs(r - r0)
    cis = chain.bond_types % N_SPECIES == PRO
    deviation[:, cis] = np.minimum(deviation[:, cis], np.abs(r[:, cis] - CIS_PROLINE_A))
    i, j = np.triu_indices(chain.n_beads, 1)
    far = np.abs(chain.sequence[j] - chain.sequence[i]) >= separation
    closest = _distances(x, np.stack([i[far], j[far]], axis=1))
    force = np.linalg.norm(np.asarray(reference.forces, np.float64), axis=-1)
    second = _distances(x, chain.angles[:, [0, 2]])
    return deviation.ravel(), second.ravel(), closest.ravel(), force.ravel()


def _within_limits(reference: Reference) -> bool:
    low, high = size_limits(pack([reference.topology]))
    x = np.asarray(reference.positions, np.float64)
    rg = np.sqrt(((x - x.mean(axis=1, keepdims=True)) ** 2).sum(-1).mean(-1))
    return bool(((rg >= low[0]) & (rg <= high[0])).all())


def _distances(x: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, pairs[:, 1]] - x[:, pairs[:, 0]], axis=-1)


def _quantile(values: np.ndarray, q: float, of_none: float) -> float:
    return float(np.quantile(values, q)) if len(values) else of_none
