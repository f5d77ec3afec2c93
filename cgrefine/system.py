"""Topology of one molecule, and the packed graph: many molecules or replicas as one set of arrays.

`Topology` lives on the host (numpy, exact sizes). `pack` joins topologies into a `System` (fixed
capacity, masks), the form in which every energy, integrator and observable of the package computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cgrefine import residues

CHAIN_GAP = 1000
"""Added to `sequence` at each chain break, so that separations across a break are never small."""

N_TYPES = residues.N_SPECIES**2
"""Types of an angle or dihedral, and of a trans bond: 20 a + b for the species a, b of two of its beads."""

CIS_BOND = N_TYPES
"""Added to the type of a bond that is cis in the reference structure."""


@dataclass(frozen=True)
class Topology:
    """One molecule of n residues, b bonds, a angles, d dihedrals (numpy, host side).

    species: (n,) index into residues.RESIDUES. sequence: (n,) residue count along the molecule, plus
    CHAIN_GAP at each break; |sequence_i - sequence_j| is the separation used for exclusions.
    bonds (b, 2), angles (a, 3), dihedrals (d, 4): bead indices in chain order.
    *_types: 20 a + b of the species a, b of a bond i-j's beads (+ CIS_BOND when it is cis), of beads
    j, k of an angle i-j-k, and of beads j, k of a dihedral i-j-k-l. Classes are made of these.
    resid: (n,) residue numbers of the source file, for reports and PDB files.
    """

    species: np.ndarray
    sequence: np.ndarray
    bonds: np.ndarray
    bond_types: np.ndarray
    angles: np.ndarray
    angle_types: np.ndarray
    dihedrals: np.ndarray
    dihedral_types: np.ndarray
    resid: np.ndarray

    @property
    def n_beads(self) -> int:
        """Number of beads (residues)."""
        return len(self.species)

    @property
    def cis_bonds(self) -> tuple[int, ...]:
        """Beads b whose bond b-1 → b is cis."""
        return tuple(self.bonds[self.bond_types >= CIS_BOND, 1].tolist())

    def with_cis(self, beads: Sequence[int]) -> "Topology":
        """The same chain with the bonds b-1 → b cis, and no others. ValueError when one is no bond."""
        second = self.bonds[:, 1]
        if unknown := set(beads) - set(second.tolist()):
            raise ValueError(f"cis bonds to beads {sorted(unknown)} are no bonds of this chain")
        flags = CIS_BOND * np.isin(second, np.asarray(beads, np.int64))
        return replace(self, bond_types=(self.bond_types % CIS_BOND + flags).astype(np.int32))


def topology_from_species(
    species: Sequence[int] | np.ndarray,
    breaks: Sequence[int] = (),
    resid: Sequence[int] | np.ndarray | None = None,
    cis: Sequence[int] = (),
) -> Topology:
    """Topology of a chain of residues: consecutive beads are bonded, except across breaks.

    species: (n,) residue types. breaks: each b means there is no bond between beads b-1 and b.
    resid: (n,) residue numbers, default 1..n. cis: each b means that the bond b-1 → b is cis.
    Raises ValueError on an unknown species or break, or a cis bond that is not there.
    """
    kind = np.asarray(species, dtype=np.int32)
    n = len(kind)
    if n == 0 or kind.min() < 0 or kind.max() >= residues.N_SPECIES:
        raise ValueError(f"species must be {n} > 0 indices from 0 to {residues.N_SPECIES - 1}")
    if any(b <= 0 or b >= n for b in breaks):
        raise ValueError(f"chain breaks {list(breaks)} must lie between beads, from 1 to {n - 1}")
    sequence = np.arange(n, dtype=np.int32)
    for b in breaks:
        sequence[b:] += CHAIN_GAP
    linked = np.diff(sequence) == 1

    def windows(width: int) -> np.ndarray:
        inside = np.ones(max(n - width + 1, 0), bool)
        for i in range(width - 1):
            inside &= linked[i : i + len(inside)]
        return (np.flatnonzero(inside)[:, None] + np.arange(width)).astype(np.int32)

    bonds, angles, dihedrals = windows(2), windows(3), windows(4)

    def pair_types(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return (residues.N_SPECIES * kind[first] + kind[second]).astype(np.int32)

    chain = Topology(
        species=kind,
        sequence=sequence,
        bonds=bonds,
        bond_types=pair_types(bonds[:, 0], bonds[:, 1]),
        angles=angles,
        angle_types=pair_types(angles[:, 1], angles[:, 2]),
        dihedrals=dihedrals,
        dihedral_types=pair_types(dihedrals[:, 1], dihedrals[:, 2]),
        resid=np.arange(1, n + 1, dtype=np.int32) if resid is None else np.asarray(resid, dtype=np.int32),
    )
    return chain.with_cis(cis)


NOT_STATED = np.zeros(0, np.float32)
"""Temperatures of a system that states none."""


class System(NamedTuple):
    """Packed graph of g molecules or replicas, padded to fixed capacity. Static during a run.

    species (n,) int32; mass (n,) g/mol; graph_id (n,) int32, non-decreasing; sequence (n,) int32, see
    Topology; bead_mask (n,) bool, False on padding; graph_mask (g,) bool.
    bonds (b, 2), angles (a, 3), dihedrals (d, 4): int32 indices into the packed beads; each with
    *_types (int32) and *_mask (bool). Padded tuples repeat bead 0 and are masked.
    temperature_K (g,) float32, 0 on padding, or (0,) where it is not stated: only networks that are
    conditioned on temperature read it.
    The number of graphs is graph_mask.shape[0], a static fact under jit.
    """

    species: np.ndarray
    mass: np.ndarray
    graph_id: np.ndarray
    sequence: np.ndarray
    bead_mask: np.ndarray
    graph_mask: np.ndarray
    bonds: np.ndarray
    bond_types: np.ndarray
    bond_mask: np.ndarray
    angles: np.ndarray
    angle_types: np.ndarray
    angle_mask: np.ndarray
    dihedrals: np.ndarray
    dihedral_types: np.ndarray
    dihedral_mask: np.ndarray
    temperature_K: np.ndarray = NOT_STATED


class Capacity(NamedTuple):
    """Fixed sizes of a packed graph: beads, graphs, and bonded tuples."""

    beads: int
    graphs: int
    bonds: int
    angles: int
    dihedrals: int


def exact_capacity(topologies: Sequence[Topology]) -> Capacity:
    """The smallest capacity that holds the given molecules: no padding at all."""
    return Capacity(
        beads=sum(t.n_beads for t in topologies),
        graphs=len(topologies),
        bonds=sum(len(t.bonds) for t in topologies),
        angles=sum(len(t.angles) for t in topologies),
        dihedrals=sum(len(t.dihedrals) for t in topologies),
    )


def pack(
    topologies: Sequence[Topology],
    capacity: Capacity | None = None,
    temperatures_K: Sequence[float] | None = None,
) -> System:
    """Join molecules into one packed graph, in the given order, padding at the end.

    temperatures_K: one a molecule, if they are to be stated. Padded beads have species 0, mass of ALA and the
    last graph's id, so that graph_id stays sorted.
    Raises ValueError when the capacity is too small: nothing is ever dropped.
    """
    need = exact_capacity(topologies)
    cap = need if capacity is None else capacity
    for name, have, want in zip(Capacity._fields, cap, need, strict=True):
        if have < want:
            raise ValueError(f"packed graph has room for {have} {name}, {want} needed")
    lengths = [t.n_beads for t in topologies]
    offsets = (np.cumsum(lengths) - lengths).astype(np.int32)
    masses = np.asarray(residues.RESIDUE_MASSES)

    def joined(field: str, size: int, shift: bool = False) -> np.ndarray:
        parts = [getattr(t, field) for t in topologies]
        counts = [len(part) for part in parts]
        rows = np.zeros((size, *parts[0].shape[1:]), np.int32)
        filled = rows[: sum(counts)]
        np.concatenate(parts, out=filled)
        if shift:
            filled += np.repeat(offsets, counts)[:, None]
        return rows

    species = joined("species", cap.beads)
    graph_of_bead = np.repeat(np.arange(len(topologies)), lengths)
    graph_id = np.full(cap.beads, cap.graphs - 1, np.int32)
    graph_id[: need.beads] = graph_of_bead
    temperature_K = NOT_STATED
    if temperatures_K is not None:
        temperature_K = np.zeros(cap.graphs, np.float32)
        temperature_K[: need.graphs] = temperatures_K
    return System(
        species=species,
        mass=masses[species],
        graph_id=graph_id,
        sequence=joined("sequence", cap.beads),
        bead_mask=np.arange(cap.beads) < need.beads,
        graph_mask=np.arange(cap.graphs) < need.graphs,
        bonds=joined("bonds", cap.bonds, shift=True),
        bond_types=joined("bond_types", cap.bonds),
        bond_mask=np.arange(cap.bonds) < need.bonds,
        angles=joined("angles", cap.angles, shift=True),
        angle_types=joined("angle_types", cap.angles),
        angle_mask=np.arange(cap.angles) < need.angles,
        dihedrals=joined("dihedrals", cap.dihedrals, shift=True),
        dihedral_types=joined("dihedral_types", cap.dihedrals),
        dihedral_mask=np.arange(cap.dihedrals) < need.dihedrals,
        temperature_K=temperature_K,
    )
