"""Each prior term in LAMMPS against the same term in JAX float64: tables, signs, exclusions."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.energy import BondedTerm, PairTerm, SumOfTerms
from cgrefine.export import tables
from cgrefine.export.bundle import Bundle
from cgrefine.export.lammps_native import pseudo_bonds, write_files
from cgrefine.export.lammps_run import RunSettings, run
from cgrefine.export.verify import model_force_errors, term_values
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal
from tests.export import toy

pytestmark = pytest.mark.lammps

SETTINGS = RunSettings(steps=200, timestep_fs=2.0, temperature_K=300.0, friction_per_ps=1.0)


def simulated(folder, model, params, topology, start, settings=SETTINGS):
    """Run a model without network for a moment."""
    write_files(folder / "lammps", model, params, topology, start, "test")
    result = run(Bundle(folder, {}, topology, start[None], {}, None, None), settings)
    assert result is not None
    return result


def check_equal(tmp_path, term, params, limit, energy_limit=1e-6, settings=SETTINGS):
    """LAMMPS energy and forces of one term, at step 0 and some steps on, equal JAX float64."""
    topology, model = toy.topology(), SumOfTerms((term,))
    result = simulated(tmp_path, model, params, topology, toy.frames()[0], settings)
    errors = model_force_errors(model, params, topology, result.positions, result.forces)
    assert max(e.max_error for e in errors) < limit
    assert min(e.rms for e in errors) > 0.1
    expected = term_values(model, params, topology, result.positions)[term.name].energy
    assert result.energy == pytest.approx(expected, abs=energy_limit)


@pytest.mark.parametrize("name", ["bond", "angle", "dihedral", "repulsion"])
def test_each_style_equals_jax(tmp_path, name):
    """Smooth terms: spline tables are exact to 1e-8 kcal/mol/Å in force."""
    check_equal(tmp_path, toy.MODEL.only((name,)).terms[0], toy.params(), 1e-8)


def test_several_terms_of_one_kind_are_added(tmp_path):
    second = BondedTerm("bond2", "bond", lambda p, r, kind: p * (r - 3.9) ** 4)
    model = SumOfTerms((toy.BOND, second))
    params = {**toy.params(), "bond2": 3.0}
    result = simulated(tmp_path, model, params, toy.topology(), toy.frames()[0])
    errors = model_force_errors(model, params, toy.topology(), result.positions, result.forces)
    assert max(e.max_error for e in errors) < 1e-8


def test_a_wall_with_a_jump_in_curvature(tmp_path):
    """Quadratic walls, not on a point of the table: the spline rounds the corner by less than 1e-4."""

    def walled(params, theta, kind):
        beyond = theta - jnp.clip(theta, 1.9003, 2.1002)
        return 0.5 * params * beyond**2 + jnp.cos(theta)

    check_equal(tmp_path, BondedTerm("angle", "angle", walled), {"angle": 100.0}, 1e-4, energy_limit=1e-5)


@pytest.mark.parametrize("degrees", [50.0, -50.0])
def test_dihedral_has_the_iupac_sign(tmp_path, degrees):
    """One torsion at ±50° with energy 5 sin φ: the energy in LAMMPS tells the two apart."""
    x = chain_from_internal(np.full(3, 3.8), np.full(2, 1.6), np.array([np.deg2rad(degrees)]))
    term = BondedTerm("dihedral", "dihedral", lambda p, phi, kind: p * jnp.sin(phi))
    topology = topology_from_species([0, 1, 2, 3])
    result = simulated(tmp_path, SumOfTerms((term,)), {"dihedral": 5.0}, topology, x)
    assert result.energy[0] == pytest.approx(5.0 * np.sin(np.deg2rad(degrees)), abs=1e-8)


@pytest.mark.parametrize("separation", [1, 2, 3, 5])
def test_pairs_act_from_their_separation_on(tmp_path, separation):
    """A soft pair force of long range, which bonded and second neighbours would feel at once; two chains.

    Few steps: nothing keeps beads from falling into each other, where a table in r² is coarse.
    """
    pair = PairTerm(
        "soft", 12.0, separation, lambda p, r, a, b: p * (1.0 - r / 12.0) ** 3 * (1 + a) * (1 + b)
    )
    check_equal(tmp_path, pair, {"soft": 0.05}, 1e-8, settings=dataclasses.replace(SETTINGS, steps=20))


def test_pseudo_bonds_stay_within_a_chain():
    topology = topology_from_species(np.zeros(7, int), breaks=(4,))
    assert pseudo_bonds(topology, 3).tolist() == [[0, 2], [1, 3], [4, 6]]
    assert pseudo_bonds(topology, 2).tolist() == []


def test_all_priors_together_conserve_energy(tmp_path):
    """No network, NVE: forces equal JAX, and the total energy changes by less than 1 % of kT a bead."""
    settings = RunSettings(1000, 1.0, 300.0, 1.0, ensemble="nve")
    result = simulated(tmp_path, toy.PRIORS, toy.params(), toy.topology(), toy.frames()[0], settings)
    errors = model_force_errors(toy.PRIORS, toy.params(), toy.topology(), result.positions, result.forces)
    assert max(e.max_error for e in errors) < 1e-8
    assert abs(result.total_energy[1] - result.total_energy[0]) < 0.01 * 0.596 * 24


def test_a_chain_too_short_for_angles(tmp_path):
    x = np.array([[0.0, 0, 0], [4.1, 0, 0]])
    model = SumOfTerms(toy.PRIORS.terms)
    result = simulated(tmp_path, model, toy.params(), topology_from_species([0, 1]), x)
    assert result.energy[0] == pytest.approx(0.5 * 100.0 * 0.3**2, abs=1e-9)


def test_two_pair_terms_are_refused(tmp_path):
    model = SumOfTerms((toy.REPULSION, toy.REPULSION))
    with pytest.raises(ValueError, match="one pair term"):
        write_files(tmp_path / "lammps", model, toy.params(), toy.topology(), toy.frames()[0], "test")


def test_forces_in_the_tables_are_minus_the_slope_of_the_energies():
    x = tables.bond_grid()
    for curve in tables.bonded_curves((toy.BOND,), toy.params(), x, 2):
        numeric = -np.gradient(curve.energy, x, edge_order=2)
        assert np.abs(curve.force - numeric)[1:-1].max() < 1e-6
        assert curve.end_slopes == pytest.approx((-100.0, -100.0))
