"""A toy protein with a known mean force: free groups on thermal springs at anchors linear in the Cα."""

from typing import NamedTuple

import numpy as np

from cgrefine.data.topology import Atoms, BeadMapping
from cgrefine.residues import RESIDUES, species_from_sequence
from cgrefine.system import topology_from_species

KT = 0.6
ATOMS = (("N", 7), ("HN", 1), ("CA", 6), ("HA", 1), ("CB", 6), ("HB1", 1), ("HB2", 1), ("C", 6), ("O", 8))
GROUP = (0, 0, 1, 1, 2, 2, 2, 3, 4)
STIFF = {"N": 300.0, "CB": 100.0, "C": 250.0, "O": 150.0}
NOISE = 4.0


class Toy(NamedTuple):
    """share: (groups, beads) anchor coefficients, rows sum to 1 (0 rows for Cα); k: (groups,) springs."""

    atoms: Atoms
    mapping: BeadMapping
    groups: np.ndarray
    share: np.ndarray
    k: np.ndarray


def toy(sequence: str) -> Toy:
    """A chain; N and C are anchored between neighbours, O partly, CB on its own Cα."""
    n = len(sequence)
    species = species_from_sequence(sequence)
    names = [RESIDUES[s] for s in species]
    residue = np.repeat(np.arange(n), len(ATOMS))
    groups = np.concatenate([np.asarray(GROUP) + 5 * i for i in range(n)])
    atoms = Atoms(
        "toy",
        np.asarray([a for _ in range(n) for a, _ in ATOMS]),
        np.asarray(names)[residue],
        np.full(len(residue), "0"),
        residue + 1,
        np.asarray([z for _ in range(n) for _, z in ATOMS]),
        residue,
    )
    share, k = np.zeros((5 * n, n)), np.zeros(5 * n)
    for i in range(n):
        before, after = max(i - 1, 0), min(i + 1, n - 1)
        for slot, name, weights in (
            (0, "N", ((i, 0.6), (before, 0.4))),
            (2, "CB", ((i, 1.0),)),
            (3, "C", ((i, 0.65), (after, 0.35))),
            (4, "O", ((i, 0.55), (after, 0.45))),
        ):
            k[5 * i + slot] = STIFF[name]
            for bead, weight in weights:
                share[5 * i + slot, bead] += weight
    ca = np.flatnonzero(atoms.name == "CA")
    return Toy(atoms, BeadMapping(topology_from_species(species), ca, ()), groups, share, k)


def trajectory(case: Toy, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Forces (f, atoms, 3) float32, and the exact mean force on the beads (f, beads, 3).

    U = Σ ½·K (x² + x⁴/2) over the stretches x of Cα-Cα vectors, plus ½ k_a |r_a − A_a(R)|². Integrating out r
    leaves the first sum. Noise of zero mean acts on every group, and inside each rigid group a force of mean
    20 that cancels in its sum.
    """
    rng = np.random.default_rng(seed)
    n, groups = len(case.mapping.ca), len(case.k)
    stretch = rng.normal(0, 0.4, (frames, n - 1, 3))
    pull = 20.0 * stretch * (1.0 + np.square(stretch).sum(axis=-1, keepdims=True))
    exact = np.zeros((frames, n, 3))
    exact[:, :-1] += pull
    exact[:, 1:] -= pull
    free = case.k > 0
    spring = np.where(free, np.sqrt(KT * case.k), 0.0)[None, :, None] * rng.normal(size=(frames, groups, 3))
    by_group = -spring
    by_group[:, case.mapping.ca // 9 * 5 + 1] += exact + np.einsum("gb,fgc->fbc", case.share, spring)
    by_group += rng.normal(0, NOISE, by_group.shape)
    first = np.unique(case.groups, return_index=True)[1]
    forces = np.zeros((frames, len(case.groups), 3))
    forces[:, first] = by_group
    for atom in np.setdiff1d(np.arange(len(case.groups)), first):
        inner = rng.normal(20.0, 10.0, (frames, 3))
        forces[:, atom] += inner
        forces[:, first[case.groups[atom]]] -= inner
    return forces.astype(np.float32), exact


def slope(mapped: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Share of the mean force that mapped forces hold, ⟨mapped · exact⟩/⟨exact²⟩, and its standard error."""
    size = np.square(exact).sum(axis=(1, 2)).mean()
    extra = ((mapped - exact) * exact).sum(axis=(1, 2)) / size
    return 1.0 + float(extra.mean()), float(extra.std(ddof=1) / np.sqrt(len(extra)))
