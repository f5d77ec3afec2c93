"""Synthetic domains of any length in the mdCATH schema; their true mean force is known (`synthetic_model`).

For scale tests and for tests of force maps: real residue and atom names, realistic numbers of atoms,
neighbours, force sizes and noise, but neither the fold nor the physics of a protein.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from jaxtyping import Float
from scipy import sparse

from cgrefine import residues
from cgrefine.data.synthetic_chain import compact_chain
from cgrefine.data.synthetic_files import write_run, write_topology
from cgrefine.data.synthetic_model import (
    SyntheticDomain,
    atom_frames,
    mean_forces,
    native_terms,
    potential,
    sample,
)
from cgrefine.data.synthetic_residues import ATOMIC_NUMBER, FREQUENCIES, XH_LENGTH_A, cone, template, unit
from cgrefine.data.topology import Atoms

__all__ = [
    "SyntheticDomain",
    "atom_frames",
    "make_domain",
    "mean_forces",
    "potential",
    "sample",
    "write_domain",
]

LAYOUT = "mdcath-only-protein-v1.0"
TEMPERATURES_K = (320, 348, 379, 413, 450)
BOX_MARGIN_A = 20.0
BLOCK_ATOMS = 400_000
"""Atoms (times frames) that are made and written at once."""

STIFFNESS = {"N": 400.0, "C": 400.0, "O": 300.0, "OT1": 300.0, "OT2": 300.0}
SIDE_STIFFNESS = (200.0, 120.0, 100.0, 80.0)
"""k_a of side atoms 1, 2, 3 and more bonds from Cα, kcal/mol/Å²."""
AWAY = 0.08
"""Side atoms are anchored at R_I + AWAY·(2 R_I − R_{I−1} − R_{I+1}) + c: Cβ points away from both."""
CARBON_SHARE, OXYGEN_SHARE, NITROGEN_SHARE = 0.374, 0.434, 0.629
"""α of the next Cα in the anchors of C and O, and of a residue's own Cα in that of its N."""


def make_domain(
    n_residues: int, seed: int = 0, name: str = "0synA00", sequence: str | None = None
) -> SyntheticDomain:
    """A domain of n_residues with a random sequence, or the given one-letter one; the same for the same seed.

    Raises ValueError on too few residues, or a sequence of another length or with unknown letters.
    """
    rng = np.random.default_rng([seed, n_residues])
    names = _residue_names(n_residues, sequence, rng)
    trace = compact_chain(n_residues, rng)
    box_A = float(np.ceil(np.ptp(trace.positions, axis=0).max() + BOX_MARGIN_A))
    reference = trace.positions - (trace.positions.max(axis=0) + trace.positions.min(axis=0)) / 2 + box_A / 2
    built = _built(names, reference)
    rows, columns, alpha = (np.asarray(v) for v in zip(*built.anchors, strict=True))
    anchor = sparse.csr_array((alpha, (rows, columns)), (len(built.heavy), n_residues))
    offset = np.asarray(built.position)[built.heavy] - anchor @ reference
    ca = np.asarray([g for g, a in enumerate(built.heavy) if built.name[a] == "CA"])
    offset[ca] = 0.0
    residue = np.asarray(built.residue)
    atoms = Atoms(
        f"synthetic: domain {name}",
        np.asarray(built.name),
        np.asarray(names)[residue],
        np.full(len(residue), "0"),
        residue + 1,
        np.asarray([ATOMIC_NUMBER[a[0]] for a in built.name]),
        residue,
    )
    group, position = np.asarray(built.group), np.asarray(built.position)
    hydrogen = np.flatnonzero(atoms.z == 1)
    heavy = np.asarray(built.heavy)
    return SyntheticDomain(
        name=name,
        atoms=atoms,
        bonds=np.asarray(sorted(built.bonds)),
        helical=trace.helical,
        reference=reference,
        box_A=box_A,
        terms=native_terms(reference),
        anchor=anchor,
        offset=offset,
        stiffness=np.asarray(built.stiffness),
        ca=ca,
        heavy=heavy,
        group=group,
        hydrogen=hydrogen,
        xh=position[hydrogen] - position[heavy[group[hydrogen]]],
    )


def write_domain(
    path: Path,
    domain: SyntheticDomain,
    temperatures_K: Sequence[int] = TEMPERATURES_K,
    replicas: int = 5,
    frames: int = 88,
    seed: int = 0,
    steps_per_frame: int = 20,
) -> Path:
    """Simulate and write a domain as mdCATH does, block by block; under a temporary name, then renamed.

    A run depends on the seed, its temperature and the numbers of replicas and frames, not on other runs.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with h5py.File(temporary, "w") as file:
        file.attrs["layout"] = LAYOUT
        group = file.create_group(domain.name)
        write_topology(group, domain)
        for temperature in temperatures_K:
            rng = np.random.default_rng([seed, int(temperature), domain.n_beads])
            beads = sample(domain, float(temperature), replicas, frames, rng, steps_per_frame)
            for replica in range(replicas):
                run = group.create_group(f"{temperature:g}/{replica}")
                block = max(1, BLOCK_ATOMS // len(domain.atoms))
                blocks = (
                    atom_frames(domain, beads[replica, k : k + block], float(temperature), rng)
                    for k in range(0, frames, block)
                )
                write_run(run, domain, beads[replica], blocks)
    os.replace(temporary, path)
    return path


class _Built(NamedTuple):
    """Atoms as they are added. position: reference, Å. heavy: atom of each group. anchors: group, bead, α."""

    name: list[str]
    residue: list[int]
    position: list[np.ndarray]
    group: list[int]
    heavy: list[int]
    stiffness: list[float]
    anchors: list[tuple[int, int, float]]
    bonds: list[tuple[int, int]]

    def add(
        self, name: str, residue: int, at: np.ndarray, stiffness: float, anchors: dict[int, float]
    ) -> int:
        """A heavy atom, as a new group; gives its index."""
        self.group.append(len(self.heavy))
        self.anchors.extend((len(self.heavy), bead, alpha) for bead, alpha in anchors.items())
        self.heavy.append(len(self.name))
        self.stiffness.append(stiffness)
        self._append(name, residue, at)
        return len(self.name) - 1

    def add_hydrogens(self, owner: int, hydrogens: dict[str, np.ndarray]) -> None:
        """Hydrogens at vectors from the atom that was added last."""
        for name, vector in hydrogens.items():
            self.group.append(self.group[owner])
            self.bonds.append((owner, len(self.name)))
            self._append(name, self.residue[owner], self.position[owner] + vector)

    def _append(self, name: str, residue: int, at: np.ndarray) -> None:
        self.name.append(name)
        self.residue.append(residue)
        self.position.append(at)


class _Backbone(NamedTuple):
    """Backbone atoms of the reference, each (n, 3), Å; amide: (n, 3) N-H directions."""

    n: np.ndarray
    ca: np.ndarray
    c: np.ndarray
    o: np.ndarray
    amide: np.ndarray


def _residue_names(n: int, sequence: str | None, rng: np.random.Generator) -> list[str]:
    if sequence is None:
        share = np.asarray(list(FREQUENCIES.values()))
        return rng.choice(list(FREQUENCIES), n, p=share / share.sum()).tolist()
    if len(sequence) != n:
        raise ValueError(f"sequence has {len(sequence)} letters for {n} residues")
    names = [residues.RESIDUES[s] for s in residues.species_from_sequence(sequence)]
    return ["HSD" if name == "HIS" else name for name in names]


def _backbone(ca: Float[np.ndarray, "n 3"]) -> _Backbone:
    """Peptide planes between consecutive Cα, C=O along the binormal, as in a helix; all trans."""
    along = unit(np.diff(ca, axis=0))
    step = np.concatenate([along[:1], along, along[-1:]])
    bend = step[2:] - step[:-2]
    across = unit(np.cross(along, bend))
    n, c, o = ca.copy(), ca.copy(), ca.copy()
    c[:-1] += 1.42 * along + 0.54 * across
    o[:-1] += 1.65 * along + 1.75 * across
    n[1:] += -1.41 * along - 0.37 * across
    # at the ends there is no plane: N-Cα-C angle of 111°
    n[0] += 1.46 * (-0.667 * along[0] + 0.745 * across[0])
    c[-1] += 1.52 * (0.110 * along[-1] + 0.994 * across[-1])
    amide = unit(ca - n)
    amide[1:] = -unit(unit(c[:-1] - n[1:]) + unit(ca[1:] - n[1:]))
    return _Backbone(n, ca, c, o, amide)


def _built(names: list[str], reference: np.ndarray) -> _Built:
    backbone = _backbone(reference)
    built = _Built([], [], [], [], [], [], [], [])
    before = None
    for i, resname in enumerate(names):
        before = _add_residue(built, resname, i, backbone, before)
    return built


def _add_residue(built: _Built, resname: str, i: int, backbone: _Backbone, before: int | None) -> int:
    """Add a residue bonded to the C atom `before`; gives its own C."""
    last = len(backbone.ca) - 1
    first_axis = unit(backbone.c[i] - backbone.ca[i])
    towards_n = backbone.n[i] - backbone.ca[i]
    second_axis = unit(towards_n - (towards_n @ first_axis) * first_axis)
    turn = np.stack([first_axis, second_axis, np.cross(first_axis, second_axis)])
    away = {j: -AWAY for j in (i - 1, i + 1) if 0 <= j <= last}
    side = {i: 1.0 + AWAY * len(away), **away}
    own = {
        "N": {i: NITROGEN_SHARE, i - 1: 1 - NITROGEN_SHARE} if i > 0 else {i: 1.0},
        "CA": {i: 1.0},
        "C": {i: 1 - CARBON_SHARE, i + 1: CARBON_SHARE} if i < last else {i: 1.0},
        "O": {i: 1 - OXYGEN_SHARE, i + 1: OXYGEN_SHARE},
    }
    if resname == "PRO":
        own["CD"] = own["N"]
    at = {"N": backbone.n[i], "CA": backbone.ca[i], "C": backbone.c[i], "O": backbone.o[i]}
    index: dict[str, int] = {}
    for atom in template(resname).atoms:
        if atom.name == "O" and i == last:
            for name, arm in zip(("OT1", "OT2"), cone(first_axis, 2), strict=True):
                k = built.add(name, i, backbone.c[i] + 1.25 * arm, STIFFNESS[name], {i: 1.0})
                built.bonds.append((index["C"], k))
            continue
        stiffness = STIFFNESS.get(atom.name, SIDE_STIFFNESS[min(atom.depth, len(SIDE_STIFFNESS)) - 1])
        k = index[atom.name] = built.add(
            atom.name,
            i,
            at.get(atom.name, backbone.ca[i] + atom.position @ turn),
            0.0 if atom.name == "CA" else stiffness,
            own.get(atom.name, side),
        )
        hydrogens = {name: vector @ turn for name, vector in atom.hydrogens.items()}
        if atom.name == "N":
            hydrogens = _amide_hydrogens(resname, i, backbone)
        built.add_hydrogens(k, hydrogens)
    for a, b in template(resname).bonds:
        if a in index and b in index:
            built.bonds.append((min(index[a], index[b]), max(index[a], index[b])))
    if before is not None:
        built.bonds.append((before, index["N"]))
    return index["C"]


def _amide_hydrogens(resname: str, i: int, backbone: _Backbone) -> dict[str, np.ndarray]:
    if i == 0:
        names = ("HT1", "HT2") if resname == "PRO" else ("HT1", "HT2", "HT3")
        arms = cone(-backbone.amide[0], 3)[: len(names)]
        return {name: XH_LENGTH_A["N"] * arm for name, arm in zip(names, arms, strict=True)}
    return {} if resname == "PRO" else {"HN": XH_LENGTH_A["N"] * backbone.amide[i]}
