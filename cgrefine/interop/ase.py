"""Our force fields in ASE (extra `ase`): a calculator, and Atoms of the Cα beads.

    beads = atoms("protein.pdb")
    beads.calc = Calculator("runs/quickstart/train", "protein.pdb")

ASE works in Å and eV; 1 kcal/mol is ase.units.kcal / ase.units.mol. Its masses are g/mol. One atom is one
residue: a carbon with the mass of a mean residue, in the order of the sequence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as Base
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.units import kcal, mol
from jaxtyping import Float

from cgrefine.errors import InputError
from cgrefine.interop.molecule import Molecule, at_temperature, chain
from cgrefine.interop.opened import Modelled, opened
from cgrefine.residues import RESIDUES
from cgrefine.units import RESIDUE_MASS

EV_PER_KCAL_MOL = kcal / mol
CARBON = 6
RESIDUE_NAMES = "residuenames"
"""ASE's name of the array of residue names, which its PDB reader fills."""


def atoms(topology: Any, positions: Float[np.ndarray, "beads 3"] | None = None) -> Atoms:
    """The beads of a molecule as ASE sees them: carbons named CA, 110 g/mol each, in free space.

    topology: as `molecule.chain` takes it. positions: (n, 3) Å, by default those of the PDB file. Raises
    InputError when there are none, or not one a residue.
    """
    found = chain(topology)
    x = found.positions if positions is None else np.asarray(positions, np.float64)
    n = found.topology.n_beads
    if x is None:
        raise InputError(f"the topology has no positions of its own: give those of its {n} beads")
    if len(x) != n:
        raise InputError(f"{len(x)} positions: the topology has {n} beads")
    beads = Atoms(numbers=np.full(n, CARBON), positions=x, masses=np.full(n, RESIDUE_MASS))
    beads.set_array("atomtypes", np.full(n, "CA"))
    beads.set_array(RESIDUE_NAMES, _names(found.topology.species))
    beads.set_array("residuenumbers", found.topology.resid.astype(np.int64))
    return beads


class Calculator(Base):
    """ASE's calculator of a force field and a molecule: energy, free_energy (eV) and forces (eV/Å).

    force_field: a folder (`opened`), or a ForceField. topology: as `molecule.chain` takes it. temperature_K:
    of a network that is conditioned on temperature. dtype: of the computation.
    The atoms must be carbons, one a residue, in the order of the sequence; where they have ASE's array of
    residue names it must be the sequence's. The molecule is whole and in free space: periodic boundaries are
    refused, and so is stress. Nothing is compiled again when positions change, unless beads come so close
    together that their neighbours need more room.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012  (of ASE's class)

    def __init__(
        self,
        force_field: str | Path | Modelled,
        topology: Any,
        temperature_K: float | None = None,
        dtype: Any = np.float64,
    ) -> None:
        super().__init__()
        found = opened(Path(force_field)) if isinstance(force_field, str | Path) else force_field
        self._molecule = Molecule(at_temperature(found, temperature_K), chain(topology).topology, dtype)
        self._names = _names(self._molecule.topology.species)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """All results at the positions of the atoms. Raises InputError on atoms of another molecule."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self._check(self.atoms)
        energy, forces = self._molecule(self.atoms.positions)
        in_eV = energy * EV_PER_KCAL_MOL
        self.results = {"energy": in_eV, "free_energy": in_eV, "forces": forces * EV_PER_KCAL_MOL}

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A result. Raises PropertyNotImplementedError on stress and whatever else is not there."""
        if name not in self.implemented_properties:
            why = "a molecule in free space has no cell to strain" if "stress" in name else "it has none"
            known = ", ".join(self.implemented_properties)
            raise PropertyNotImplementedError(
                f"{name} of a coarse-grained protein: {why}; choose from {known}"
            )
        return super().get_property(name, atoms, allow_calculation)

    def _check(self, atoms: Atoms) -> None:
        if atoms.pbc.any():
            raise InputError(
                f"atoms have periodic boundaries {atoms.pbc.tolist()}: the force field is of one whole "
                "molecule in free space; set atoms.pbc = False"
            )
        n = len(self._names)
        if len(atoms) != n:
            raise InputError(f"{len(atoms)} atoms: the molecule has {n} beads, one atom a residue")
        if (atoms.numbers != CARBON).any():
            first = int(np.argmax(atoms.numbers != CARBON))
            raise InputError(
                f"atom {first + 1} is {atoms.symbols[first]}: beads are Cα atoms, all carbon (C)"
            )
        if RESIDUE_NAMES in atoms.arrays:
            names = np.char.strip(atoms.arrays[RESIDUE_NAMES].astype(str))
            if (names != self._names).any():
                first = int(np.argmax(names != self._names))
                raise InputError(
                    f"atom {first + 1} is of residue {names[first]}, the molecule's bead {first + 1} is "
                    f"{self._names[first]}: atoms must be in the order of the sequence"
                )


def _names(species: np.ndarray) -> np.ndarray:
    return np.asarray(RESIDUES)[species]
