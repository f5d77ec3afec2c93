"""From all-atom to one bead per residue: atoms, bonds, Cα, chain breaks, constraint groups."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from cgrefine import residues
from cgrefine.errors import InputError
from cgrefine.system import Topology, topology_from_species

CA_GAP_A = 4.2
"""Consecutive Cα farther apart than this are not bonded: trans is 3.8 Å, cis 2.95 Å."""

XH_MAX_A = 1.5
"""Longest X-H bond looked for (S-H is 1.34 Å); the next heavy atom is 1.9 Å away or more."""

HEAVY_BOND_MAX_A = 1.9
SULFUR_BOND_MAX_A = 2.3
"""Longest bonds between heavy atoms: C-C is 1.55 Å, 1-3 pairs above 2.1; S-S is 2.05, 1-3 above 2.6."""

HYDROGEN, CARBON, SULFUR = 1, 6, 16


@dataclass(frozen=True)
class Atoms:
    """The atoms of one molecule, in file order. source: "file: domain", for messages.

    name, resname, segment: (n,) strings; resid, z: (n,) int, residue number and atomic number;
    residue: (n,) int, index of the residue along the file, from 0, never decreasing.
    """

    source: str
    name: np.ndarray
    resname: np.ndarray
    segment: np.ndarray
    resid: np.ndarray
    z: np.ndarray
    residue: np.ndarray

    def __len__(self) -> int:
        return len(self.name)

    def label(self, atom: int) -> str:
        """A name for messages, such as `ALA 12 HB1`."""
        return f"{self.resname[atom]} {self.resid[atom]} {self.name[atom]}"


class BeadMapping(NamedTuple):
    """topology: the coarse chain. ca: (beads,) atom index of each Cα. breaks: see topology_from_species."""

    topology: Topology
    ca: np.ndarray
    breaks: tuple[int, ...]


def residue_index(segment: np.ndarray, resid: np.ndarray, resname: np.ndarray) -> np.ndarray:
    """(n,) running residue number of each atom: a new residue starts where any of the three changes."""
    new = (segment[1:] != segment[:-1]) | (resid[1:] != resid[:-1]) | (resname[1:] != resname[:-1])
    return np.concatenate([[0], np.cumsum(new)]).astype(np.int64)


def alpha_carbons(atoms: Atoms) -> Int[np.ndarray, " beads"]:
    """Atom index of the Cα of each residue that has one, caps left out.

    Raises InputError when there is none, or a residue has two.
    """
    is_ca = (atoms.name == "CA") & (atoms.z == CARBON) & ~np.isin(atoms.resname, sorted(residues.CAPS))
    ca = np.flatnonzero(is_ca)
    if len(ca) == 0:
        names = ", ".join(dict.fromkeys(atoms.resname.tolist()))
        raise InputError(f"{atoms.source}: no residue has a Cα atom (name CA, carbon); residues are {names}")
    double = np.flatnonzero(np.diff(atoms.residue[ca]) == 0)
    if len(double):
        raise InputError(
            f"{atoms.source}: residue of atom {atoms.label(int(ca[double[0]]))} has two Cα atoms"
        )
    return ca


def bonds_from_geometry(atoms: Atoms, frame: Float[np.ndarray, "atoms 3"]) -> Int[np.ndarray, "bonds 2"]:
    """Covalent bonds of a frame without a bond list: each hydrogen to the nearest heavy atom of its residue,
    heavy atoms by distance.

    Preferred over residue templates, which know neither CHARMM names nor caps; a bond and the next
    distance along the chain differ by more than thermal motion at any temperature of a protein.
    Raises InputError when a hydrogen has no heavy atom within XH_MAX_A.
    """
    heavy = np.flatnonzero(atoms.z != HYDROGEN)
    tree = KDTree(frame[heavy])
    pairs = heavy[tree.query_pairs(SULFUR_BOND_MAX_A, output_type="ndarray").reshape(-1, 2)]
    distance = np.linalg.norm(frame[pairs[:, 0]] - frame[pairs[:, 1]], axis=1)
    limit = np.where((atoms.z[pairs] == SULFUR).any(axis=1), SULFUR_BOND_MAX_A, HEAVY_BOND_MAX_A)
    bonds = [np.sort(pairs[distance < limit], axis=1)]
    for h in np.flatnonzero(atoms.z == HYDROGEN):
        mates = heavy[atoms.residue[heavy] == atoms.residue[h]]
        distances = np.linalg.norm(frame[mates] - frame[h], axis=1)
        nearest = distances.min(initial=np.inf)
        if not nearest < XH_MAX_A:
            raise InputError(
                f"{atoms.source}: hydrogen {atoms.label(int(h))} is {nearest:.2f} Å from the nearest heavy "
                f"atom of its residue, at most {XH_MAX_A} allowed; give the bonds in `psf`"
            )
        bonds.append(np.sort([[h, mates[distances.argmin()]]], axis=1))
    rows = np.concatenate(bonds)
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


def constraint_groups(atoms: Atoms, bonds: Int[np.ndarray, "bonds 2"]) -> Int[np.ndarray, " atoms"]:
    """Group of each atom: a heavy atom and the hydrogens bonded to it, whose X-H bonds are rigid.

    Groups count from 0 in the order of their first atom. From the bond list, never from the data:
    coordinates rounded to 0.01 Å hide the constraints. Raises InputError on a hydrogen without exactly
    one bond to a heavy atom.
    """
    hydrogen = atoms.z == HYDROGEN
    both = np.concatenate([bonds, bonds[:, ::-1]])
    owned = both[hydrogen[both[:, 0]] & ~hydrogen[both[:, 1]]]
    count = np.bincount(owned[:, 0], minlength=len(atoms))
    wrong = np.flatnonzero(hydrogen & (count != 1))
    if len(wrong):
        raise InputError(
            f"{atoms.source}: hydrogen {atoms.label(int(wrong[0]))} has {count[wrong[0]]} bonds to heavy "
            "atoms, must be 1"
        )
    owner = np.arange(len(atoms))
    owner[owned[:, 0]] = owned[:, 1]
    _, first, inverse = np.unique(owner, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def chain_breaks(
    atoms: Atoms,
    ca: Int[np.ndarray, " beads"],
    bonds: Int[np.ndarray, "bonds 2"],
    frame: Float[np.ndarray, "atoms 3"],
) -> tuple[int, ...]:
    """Beads b not bonded to b-1: no peptide bond C(b-1)-N(b) in the list, or a Cα gap above CA_GAP_A.

    The `chain` field is no help: mdCATH writes '0' for every chain. Without any C and N atom (beads, not
    atoms) the gap alone decides.
    """
    is_c, is_n = atoms.name == "C", atoms.name == "N"
    beads_only = not (is_c | is_n).any()
    linked = {
        (int(atoms.residue[i]), int(atoms.residue[j]))
        for i, j in np.concatenate([bonds, bonds[:, ::-1]])
        if is_c[i] and is_n[j]
    }
    owner = atoms.residue[ca]
    gap = np.linalg.norm(np.diff(frame[ca], axis=0), axis=1) > CA_GAP_A
    return tuple(
        b
        for b in range(1, len(ca))
        if gap[b - 1] or not (beads_only or (int(owner[b - 1]), int(owner[b])) in linked)
    )


def map_to_beads(
    atoms: Atoms,
    bonds: Int[np.ndarray, "bonds 2"],
    frame: Float[np.ndarray, "atoms 3"],
    modified: bool = False,
) -> BeadMapping:
    """One bead at the Cα of each residue that has one. frame: a valid frame, Å, only to find chain gaps.

    modified: take modified residues as their parents.
    Raises InputError on a residue with Cα that is not in the residue table, or no Cα at all.
    """
    ca = alpha_carbons(atoms)
    species = []
    for atom in ca:
        try:
            species.append(residues.species_of(str(atoms.resname[atom]), modified))
        except ValueError as error:
            raise InputError(f"{atoms.source}: residue number {atoms.resid[atom]}: {error}") from error
    breaks = chain_breaks(atoms, ca, bonds, frame)
    return BeadMapping(topology_from_species(species, breaks, atoms.resid[ca]), ca, breaks)
