"""The calculator in ASE: our energies and forces, and ASE's own dynamics and optimisers on them."""

import math

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule as other_molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE

from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.interop import molecule
from cgrefine.interop.ase import EV_PER_KCAL_MOL, Calculator, atoms
from cgrefine.sim.trajectory import write_pdb
from tests.interop.toy import SEQUENCE, TOPOLOGY, N, X, own, priors, springs, strand, with_schnet


@pytest.fixture(scope="module")
def calculator():
    return Calculator(priors(), SEQUENCE)


def beads(calculator, x=X):
    found = atoms(SEQUENCE, x)
    found.calc = calculator
    return found


def test_a_kcal_is_43_meV():
    """1 kcal/mol = 4184 J/mol over the Faraday constant; ASE's constants are those of CODATA 2014."""
    assert pytest.approx(4184.0 / 96485.33212, rel=1e-7) == EV_PER_KCAL_MOL


@pytest.mark.parametrize("make", [priors, pytest.param(with_schnet, marks=pytest.mark.slow)])
def test_energy_and_forces_are_the_packages_own(make, tmp_path):
    """From the folder of the force field, far from the origin."""
    forcefield.save(tmp_path / "forcefield", make())
    energy, forces = own(make())
    found = beads(Calculator(tmp_path, SEQUENCE), X + 1e4)
    assert found.get_potential_energy() == pytest.approx(energy * EV_PER_KCAL_MOL, rel=1e-9)
    assert found.get_potential_energy(force_consistent=True) == found.get_potential_energy()
    size = np.abs(forces).max() * EV_PER_KCAL_MOL
    assert size > 0.1
    assert np.abs(found.get_forces() - forces * EV_PER_KCAL_MOL).max() < 1e-8 * size


def test_forces_are_minus_the_gradient_as_ASE_sees_it(calculator):
    found = beads(calculator, strand())
    expected = calculate_numerical_forces(found, eps=1e-4, iatoms=[0, 5, N - 1])
    assert np.abs(expected).max() > 0.01
    assert np.abs(found.get_forces()[[0, 5, N - 1]] - expected).max() < 1e-6


def test_neighbours_follow_the_positions_and_compile_once(calculator):
    """Frames at random need no new program; a chain that collapses needs one, and is right as well."""
    compiled = getattr(molecule._evaluate, "_cache_size")  # noqa: B009  (JAX has no typed name for it)
    found, rng = beads(calculator), np.random.default_rng(0)
    found.get_forces()
    before = compiled()
    for _ in range(5):
        found.positions = X + rng.normal(scale=0.3, size=X.shape)
        expected = own(priors(), found.positions)[1] * EV_PER_KCAL_MOL
        assert np.abs(found.get_forces() - expected).max() < 1e-8 * np.abs(expected).max()
    assert compiled() == before
    fresh = beads(Calculator(priors(), SEQUENCE), strand())
    fresh.get_forces()
    fresh.positions = 0.3 * X
    expected = own(priors(), 0.3 * X)[1] * EV_PER_KCAL_MOL
    assert np.abs(fresh.get_forces() - expected).max() < 1e-8 * np.abs(expected).max()
    assert compiled() > before


def deviation(calculator, timestep_fs):
    """Standard deviation of the total energy over 0.4 ps from one start at 300 K, eV."""
    found, energies = beads(calculator, strand()), []
    thermalize_momenta(found, temperature_K=300.0, rng=np.random.default_rng(1))
    run = VelocityVerlet(found, timestep_fs * units.fs)
    run.attach(lambda: energies.append(found.get_total_energy()))
    run.run(round(400 / timestep_fs))
    return float(np.std(energies))


def test_velocity_verlet_conserves_energy(calculator):
    """The error of the total energy is of second order in the time step: halved, a quarter."""
    coarse, fine = (deviation(calculator, dt) for dt in (4.0, 2.0))
    assert fine < 1e-3 * N * 3 * 300.0 * units.kB
    assert 3.2 < coarse / fine < 4.8


def test_langevin_has_its_temperature(calculator):
    """The energy of a momentum forgets itself as exp(-2γt), so that T of n beads has a relative error of
    sqrt(2 coth(γ dt) / (3n steps)); four of them, fixed seed (false alarm 6e-5)."""
    T, steps, dt, friction, warm = 300.0, 500, 4.0, 0.05, 100
    found, kinetic = beads(calculator, strand()), []
    rng = np.random.default_rng(2)
    thermalize_momenta(found, temperature_K=T, rng=rng)
    run = Langevin(found, dt * units.fs, temperature_K=T, friction=friction / units.fs, fixcm=False, rng=rng)
    run.run(warm)
    run.attach(lambda: kinetic.append(found.get_kinetic_energy()))
    run.run(steps)
    ratio = float(np.mean(kinetic)) / (1.5 * N * units.kB * T)
    assert abs(ratio - 1.0) < 4.0 * math.sqrt(2.0 / math.tanh(friction * dt) / (3 * N * steps))


@pytest.mark.parametrize("optimiser", [FIRE, BFGS])
def test_optimisers_arrive(calculator, optimiser):
    """From 0.1 Å off a strand, below 1 meV/Å, and there no small step goes lower."""
    rng = np.random.default_rng(5)
    found = beads(calculator, strand() + rng.normal(scale=0.1, size=(N, 3)))
    start = found.get_potential_energy()
    assert optimiser(found, logfile=None).run(fmax=1e-3, steps=3000)
    assert np.linalg.norm(found.get_forces(), axis=1).max() < 1e-3
    lowest = found.get_potential_energy()
    assert lowest < start - 0.1
    found.positions += rng.normal(scale=0.02, size=(N, 3))
    assert found.get_potential_energy() > lowest


def test_atoms_from_a_pdb_with_a_break_and_a_cis_bond(tmp_path):
    """Cα alone: the gap of 6 Å is a break, the bond of 2.95 Å is cis; ASE reads the same file."""
    x = strand(8)
    along = np.diff(x, axis=0) / np.linalg.norm(np.diff(x, axis=0), axis=1, keepdims=True)
    x[3:] += (2.95 - 3.82) * along[2]
    x[6:] += (6.0 - 3.82) * along[5]
    path = tmp_path / "chain.pdb"
    write_pdb(path, molecule.chain(SEQUENCE[:8]).topology, x)
    found = molecule.chain(path)
    assert found.topology.cis_bonds == (3,)
    assert np.flatnonzero(np.diff(found.topology.sequence) != 1).tolist() == [5]
    made = atoms(path)
    assert np.abs(made.positions - x).max() < 1e-3 and (made.get_masses() == 110.0).all()
    calculator = Calculator(springs(), path)
    again = read(path)
    assert isinstance(again, Atoms)
    again.calc = made.calc = calculator
    assert again.get_potential_energy() == pytest.approx(made.get_potential_energy(), rel=1e-9)
    expected, _ = own(springs(), made.positions, found.topology)
    assert made.get_potential_energy() == pytest.approx(expected * EV_PER_KCAL_MOL, rel=1e-9)


def test_atoms_that_are_not_the_molecules_are_refused(calculator):
    def refused(found, message):
        found.calc = calculator
        with pytest.raises(InputError, match=message):
            found.get_potential_energy()

    mixed = beads(None)
    refused(mixed[::-1], "atom 1 is of residue .*, the molecule's bead 1 is .*: atoms must be in the order")
    refused(beads(None)[:5], "5 atoms: the molecule has 14 beads")
    periodic = beads(None)
    periodic.pbc = (False, False, True)
    refused(periodic, r"periodic boundaries \[False, False, True\]: .* set atoms\.pbc = False")
    water = beads(None)
    water.symbols[2] = "O"
    refused(water, "atom 3 is O: beads are Cα atoms")
    far = beads(None)
    far.positions[4, 1] = np.nan
    refused(far, "the position of bead 5 is .* it must be finite")
    refused(other_molecule("CH4"), "5 atoms: the molecule has 14 beads")


def test_what_there_is_not_is_told(calculator):
    found = beads(calculator)
    with pytest.raises(PropertyNotImplementedError, match=r"stress of a coarse-grained protein: .* no cell"):
        found.get_stress()
    with pytest.raises(PropertyNotImplementedError, match="choose from energy, free_energy, forces"):
        found.get_dipole_moment()
    with pytest.raises(InputError, match="no positions of its own: give those of its 14 beads"):
        atoms(SEQUENCE)
    with pytest.raises(InputError, match="13 positions: the topology has 14 beads"):
        atoms(TOPOLOGY, X[1:])


def test_force_fields_and_topologies_that_are_none(tmp_path):
    with pytest.raises(InputError, match="holds neither a force field"):
        Calculator(tmp_path, SEQUENCE)
    with pytest.raises(InputError, match=r"'GAB': neither a sequence nor a .pdb file .*'B' at position 3"):
        Calculator(priors(), "GAB")
    with pytest.raises(InputError, match="topology of type list"):
        Calculator(priors(), [1, 2])
    with pytest.raises(InputError, match=r"is no \.pdb"):
        Calculator(priors(), tmp_path / "protein.xyz")


def test_a_conditioned_network_needs_a_temperature():
    conditioned = with_schnet(entropy=True, reference_K=300.0, temperature_range_K=[280.0, 400.0])
    with pytest.raises(InputError, match="give temperature_K, between 280 and 400 K"):
        Calculator(conditioned, SEQUENCE)
    fixed = molecule.at_temperature(conditioned, 350.0)
    assert isinstance(fixed, forcefield.ForceField) and fixed.facts["temperature_K"] == 350.0
    assert forcefield.conditioned_range(fixed) is None
