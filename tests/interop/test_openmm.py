"""The force in OpenMM on the platforms that run without a GPU: our energies and forces, and its dynamics."""

import math
import pickle

import numpy as np
import openmm
import pytest
from openmm import app, unit

from cgrefine import units
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.interop import openmm as interop
from cgrefine.interop.molecule import chain
from cgrefine.residues import RESIDUES
from cgrefine.system import topology_from_species
from tests.interop.toy import SEQUENCE, SPECIES, N, X, own, priors, springs, strand

PLATFORMS = ("Reference", "CPU")


def context(made, platform="Reference", x=X, integrator=None):
    mover = integrator or openmm.VerletIntegrator(0.002)
    found = openmm.Context(made, mover, openmm.Platform.getPlatformByName(platform))
    found.setPositions(np.asarray(x) / 10.0)
    return found


def energy_and_forces(found):
    """kJ/mol and kJ/mol/nm."""
    state = found.getState(energy=True, forces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    return energy, 10.0 * forces


@pytest.fixture(scope="module")
def made():
    return interop.system(priors(), SEQUENCE)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_energy_and_forces_are_the_packages_own(made, platform):
    """1 kcal = 4.184 kJ, 1 nm = 10 Å; the CPU platform may round forces to float32."""
    energy, forces = own(priors())
    found = energy_and_forces(context(made, platform))
    tolerance = {"Reference": 1e-9, "CPU": 1e-5}[platform]
    assert found[0] == pytest.approx(4.184 * energy, rel=tolerance)
    assert np.abs(found[1] - 41.84 * forces).max() < tolerance * 41.84 * np.abs(forces).max()


def test_a_force_field_from_its_folder(tmp_path):
    forcefield.save(tmp_path, springs())
    energy, forces = own(springs())
    found = energy_and_forces(context(interop.system(str(tmp_path), SEQUENCE)))
    assert found[0] == pytest.approx(4.184 * energy, rel=1e-8)
    assert np.abs(found[1] - 41.84 * forces).max() < 1e-8 * 41.84 * np.abs(forces).max()


@pytest.mark.parametrize("platform", [pytest.param("Reference", marks=pytest.mark.slow), "CPU"])
def test_verlet_conserves_energy_and_langevin_has_its_temperature(made, platform):
    """The energy of a momentum forgets itself as exp(-2γt): four standard errors, as for ASE; and without
    friction the total energy moves by less than 1 % of the kinetic one."""
    T, steps, dt_ps, friction = 300.0, 600, 0.004, 50.0
    integrator = openmm.LangevinMiddleIntegrator(T, friction, dt_ps)
    integrator.setRandomNumberSeed(3)
    found, kinetic = context(made, platform, strand(), integrator), []
    found.setVelocitiesToTemperature(T, 4)
    integrator.step(100)
    for _ in range(steps):
        integrator.step(1)
        kinetic.append(found.getState(energy=True).getKineticEnergy().value_in_unit(unit.kilojoule_per_mole))
    expected = 1.5 * N * 4.184 * units.thermal_energy(T)
    error = math.sqrt(2.0 / math.tanh(friction * dt_ps) / (3 * N * steps))
    assert abs(np.mean(kinetic) / expected - 1.0) < 4.0 * error

    free = openmm.VerletIntegrator(0.002)
    found = context(made, platform, strand(), free)
    found.setVelocitiesToTemperature(T, 5)
    totals = []
    for _ in range(100):
        free.step(1)
        state = found.getState(energy=True)
        totals.append((state.getKineticEnergy() + state.getPotentialEnergy()) / unit.kilojoule_per_mole)
    assert np.std(totals) < 0.01 * expected


def test_the_minimiser_arrives(made):
    found = context(made, x=strand() + np.random.default_rng(1).normal(scale=0.1, size=(N, 3)))
    before, _ = energy_and_forces(found)
    openmm.LocalEnergyMinimizer.minimize(found, 1)
    after, forces = energy_and_forces(found)
    assert after < before - 10.0 and np.sqrt((forces**2).sum(1).mean()) < 2.0


def test_states_are_written_and_systems_are_not(made):
    """No pickle of ours is made, so none of ours can be read."""
    found = context(made)
    text = openmm.XmlSerializer.serialize(found.getState(positions=True, velocities=True))
    assert openmm.XmlSerializer.deserialize(text).getPositions(asNumpy=True).shape == (N, 3)
    with pytest.raises(openmm.OpenMMException, match="could not be pickled"):
        openmm.XmlSerializer.serialize(made)
    with pytest.raises(pickle.PicklingError, match="make the System again from the force field's folder"):
        pickle.dumps(interop.Computation(interop.Molecule(priors(), chain(SEQUENCE).topology)))


def test_a_simulation_knows_the_molecule(tmp_path):
    """Residues, chains and bonds; a PDB file that OpenMM writes is the same molecule for us."""
    broken = topology_from_species(SPECIES, breaks=(6,))
    seen = interop.topology(broken)
    assert [r.name for r in seen.residues()] == [RESIDUES[s] for s in SPECIES]
    assert [len(list(c.atoms())) for c in seen.chains()] == [6, N - 6]
    assert [[a.index, b.index] for a, b in seen.bonds()] == broken.bonds.tolist()
    x = strand()
    x[6:] += [0.0, 0.0, 8.0]
    with (tmp_path / "chain.pdb").open("w") as handle:
        app.PDBFile.writeFile(seen, x * unit.angstrom, handle)
    again = chain(tmp_path / "chain.pdb")
    assert again.positions is not None and np.abs(again.positions - x).max() < 1e-3
    for name in ("species", "sequence", "bonds"):
        assert np.array_equal(getattr(again.topology, name), getattr(broken, name))


def test_positions_and_masses(made):
    assert {made.getParticleMass(i) / unit.dalton for i in range(N)} == {110.0}
    assert not made.usesPeriodicBoundaryConditions()
    far = np.array(X)
    far[2, 0] = np.inf
    with pytest.raises((openmm.OpenMMException, InputError), match=r"position of bead 3 is .*must be finite"):
        energy_and_forces(context(made, x=far))
