"""Our force fields in OpenMM (extra `openmm`) without a compiled plugin: a force whose function is Python.

    beads = system("runs/quickstart/train", "protein.pdb")
    simulation = openmm.app.Simulation(topology("protein.pdb"), beads, integrator)

OpenMM's PythonForce (8.4 and later) calls `Computation` with the positions at each step, on any platform; the
computation itself is jax's. nm, kJ/mol and g/mol outside. One particle is one residue.

A System with this force cannot be written as XML, copied, or sent to another process: OpenMM would pickle the
function, and a pickle runs code where it is read. Make it again from the force field's folder. States and
checkpoints of a Context hold positions and velocities alone, and can be written.
"""

import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import openmm
from openmm import app, unit

from cgrefine.interop.molecule import Molecule, at_temperature, chain
from cgrefine.interop.opened import Modelled, opened
from cgrefine.residues import RESIDUES
from cgrefine.units import KCAL_PER_MOL_IN_SI, RESIDUE_MASS

A_PER_NM = 10.0
KJ_PER_KCAL = KCAL_PER_MOL_IN_SI / 1000.0


class Computation:
    """What OpenMM calls: energy, kJ/mol, and forces (n, 3), kJ/mol/nm, of a state's positions."""

    def __init__(self, molecule: Molecule) -> None:
        self._molecule = molecule

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        """See the class. Raises InputError on positions that are not finite."""
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        energy, forces = self._molecule(np.asarray(positions, np.float64))
        return energy * KJ_PER_KCAL, forces * (KJ_PER_KCAL * A_PER_NM)

    def __reduce__(self) -> NoReturn:
        raise pickle.PicklingError(
            "a force field in OpenMM is not pickled: make the System again from the force field's folder"
        )


def force(
    force_field: str | Path | Modelled,
    topology: Any,
    temperature_K: float | None = None,
    dtype: Any = np.float64,
) -> openmm.PythonForce:
    """The force field as a force on particles that are the beads of the molecule, in order.

    force_field: a folder (`opened`), or a ForceField. topology: as `molecule.chain` takes it. temperature_K:
    of a network that is conditioned on temperature. dtype: of the computation. The molecule is whole and in
    free space: the force is not periodic.
    """
    found = opened(Path(force_field)) if isinstance(force_field, str | Path) else force_field
    molecule = Molecule(at_temperature(found, temperature_K), chain(topology).topology, dtype)
    made = openmm.PythonForce(Computation(molecule))
    made.setName("cgrefine")
    return made


def system(
    force_field: str | Path | Modelled,
    topology: Any,
    temperature_K: float | None = None,
    dtype: Any = np.float64,
    mass_g_mol: float = RESIDUE_MASS,
) -> openmm.System:
    """A System of the beads, mass_g_mol each, with `force`. No constraints; the centre of mass is free."""
    made = openmm.System()
    for _ in range(chain(topology).topology.n_beads):
        made.addParticle(mass_g_mol)
    made.addForce(force(force_field, topology, temperature_K, dtype))
    return made


def topology(source: Any) -> app.Topology:
    """The molecule as OpenMM sees it, for its Simulation and reporters: Cα atoms, bonds, a chain for each
    unbroken stretch. source: as `molecule.chain` takes it."""
    found, made, beads = chain(source).topology, app.Topology(), []
    carbon = app.Element.getByAtomicNumber(6)
    piece = None
    for bead, species in enumerate(found.species):
        if piece is None or found.sequence[bead] - found.sequence[bead - 1] != 1:
            piece = made.addChain()
        residue = made.addResidue(RESIDUES[species], piece, id=str(found.resid[bead]))
        beads.append(made.addAtom("CA", carbon, residue))
    for i, j in found.bonds:
        made.addBond(beads[i], beads[j])
    return made
