"""Each prior term in LAMMPS against the same term in JAX float64: tables, signs, exclusions."""

import dataclasses
import shutil
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from cgrefine.energy import BondedTerm, PairTerm, SumOfTerms
from cgrefine.errors import InputError
from cgrefine.export import tables
from cgrefine.export.bundle import Bundle
from cgrefine.export.lammps_native import write_files
from cgrefine.export.lammps_run import Deployment, run, simulate
from cgrefine.export.lammps_settings import RunSettings
from cgrefine.export.lammps_terms import near_pairs
from cgrefine.export.verify import model_force_errors, term_values
from cgrefine.fm.priors.forms import WCA_CUTOFF
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.fm.priors.terms import term as prior_term
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal
from tests.export import toy
from tests.fm import prior_facts

pytestmark = pytest.mark.lammps

SETTINGS = RunSettings(steps=200, timestep_fs=2.0, temperature_K=300.0, friction_per_ps=1.0)


def simulated(folder, model, params, topology, start, settings=SETTINGS):
    """Run a model without network for a moment."""
    write_files(folder / "lammps", model, params, topology, start, "test")
    result = run(Bundle(folder, {}, topology, start[None], {}, None, None), settings)
    assert result is not None
    return result


def check_forces(model, params, topology, result, limit):
    """Forces at step 0 and at the last step."""
    errors = model_force_errors(model, params, topology, result.positions, result.forces)
    assert max(e.max_error for e in errors) < limit
    assert min(e.rms for e in errors) > 0.1


def check_equal(tmp_path, term, params, limit, energy_limit=1e-6, settings=SETTINGS):
    """LAMMPS energy and forces of one term, at step 0 and some steps on, equal JAX float64."""
    topology, model = toy.topology(), SumOfTerms((term,))
    result = simulated(tmp_path, model, params, topology, toy.frames()[0], settings)
    check_forces(model, params, topology, result, limit)
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
    """What no prior has: a spline rounds the corner, if by less than 1e-4 kcal/mol/Å."""

    def walled(params, theta, kind):
        beyond = theta - jnp.clip(theta, 1.9003, 2.1002)
        return 0.5 * params * beyond**2 + jnp.cos(theta)

    check_equal(tmp_path, BondedTerm("angle", "angle", walled), {"angle": 100.0}, 1e-4, energy_limit=1e-5)


def test_walls_of_the_prior_are_exact_at_their_edges(tmp_path):
    """Angles on both edges, around them and where the ramps end: 1e-8 of the rms force there, too."""
    entry = prior_facts.ANGLE
    low, high, ramp = entry["low"], entry["high"], entry["wall_ramp"]
    near = np.array([-1.0, -0.5, -1e-3, -1e-4, -1e-5, 0.0, 1e-5, 1e-4, 1e-3, 0.5, 1.0])
    angles = np.concatenate([low - ramp * near, high + ramp * near])
    n = len(angles) + 2
    x = chain_from_internal(np.full(n - 1, 3.8), angles, np.linspace(1.0, 2.5, n - 3))
    model, params = SumOfTerms((prior_term(entry),)), {entry["name"]: prior_facts.params(entry)}
    few = dataclasses.replace(SETTINGS, steps=1)
    result = simulated(tmp_path, model, params, toy.chain(n), x, few)
    errors = model_force_errors(model, params, toy.chain(n), result.positions, result.forces)
    assert max(e.relative for e in errors) < 1e-8
    assert min(e.rms for e in errors) > 0.1


@pytest.mark.parametrize("degrees", [50.0, -50.0])
def test_dihedral_has_the_iupac_sign(tmp_path, degrees):
    """One torsion at ±50° with energy 5 sin φ: the energy in LAMMPS tells the two apart."""
    x = chain_from_internal(np.full(3, 3.8), np.full(2, 1.6), np.array([np.deg2rad(degrees)]))
    term = BondedTerm("dihedral", "dihedral", lambda p, phi, kind: p * jnp.sin(phi))
    topology = topology_from_species([0, 1, 2, 3])
    result = simulated(tmp_path, SumOfTerms((term,)), {"dihedral": 5.0}, topology, x)
    assert result.energy[0] == pytest.approx(5.0 * np.sin(np.deg2rad(degrees)), abs=1e-8)


def test_a_mirrored_dihedral_would_be_seen_at_the_start(tmp_path):
    """Planted: the tables of the other sign, beside the forces of the right one."""
    topology, x = toy.topology(), toy.frames()[0]

    def opposite(params, phi, kind):
        return toy.DIHEDRAL.scalar(params, -phi, kind)

    mirrored = dataclasses.replace(toy.DIHEDRAL, scalar=opposite)
    for folder, term in (("right", toy.DIHEDRAL), ("wrong", mirrored)):
        write_files(tmp_path / folder, SumOfTerms((term,)), toy.params(), topology, x, "test")
    shutil.copy(tmp_path / "right" / "start.txt", tmp_path / "wrong")
    few = dataclasses.replace(SETTINGS, steps=1)
    assert simulate(Deployment(tmp_path / "right", None, topology.species), few) is not None
    with pytest.raises(InputError, match="forces in LAMMPS differ from the stored ones"):
        simulate(Deployment(tmp_path / "wrong", None, topology.species), few)


def test_tables_have_as_many_points_as_their_form_needs():
    """A smooth form needs few; one with knots and walls as many as there may be."""
    x, (curve,) = tables.angular_curves((toy.DIHEDRAL,), toy.params(), "dihedral", [0])
    assert len(x) == tables.DIHEDRAL_POINTS[0]
    (expected,) = tables.bonded_curves((toy.DIHEDRAL,), toy.params(), np.deg2rad(x), [0])
    assert np.allclose(curve.force, expected.force, rtol=0.0, atol=1e-12)
    entry = prior_facts.ALL_FORMS["dihedral spline"]
    params = {entry["name"]: prior_facts.params(entry)}
    term = prior_term(entry)
    assert isinstance(term, BondedTerm)
    x, _ = tables.angular_curves((term,), params, "dihedral", [0])
    assert len(x) == tables.DIHEDRAL_POINTS[-1]


def test_files_leave_out_what_a_spline_fills_in():
    """Walls and knots: a fifth of the grid at most, and the clamped spline through it is exact elsewhere."""
    entry = prior_facts.ALL_FORMS["angle spline"]
    term = prior_term(entry)
    assert isinstance(term, BondedTerm)
    x = np.deg2rad(tables.angle_grid(tables.ANGLE_POINTS[-1]))
    curves = tables.bonded_curves([term], {entry["name"]: prior_facts.params(entry)}, x, [0, 1])
    kept = tables.points_written(x, curves, "angle")
    assert kept[0] == 0 and kept[-1] == len(x) - 1 and len(kept) < len(x) / 5
    for energy, force, slopes in curves:
        for values, ends in ((energy, -force[[0, -1]]), (force, slopes)):
            clamped: Any = ((1, ends[0]), (1, ends[1]))
            spline = CubicSpline(x[kept], values[kept], bc_type=clamped)
            assert np.abs(spline(x) - values).max() < tables.SPLINE_TOLERANCE
        sparse = CubicSpline(x[::10], force[::10])
        assert np.abs(sparse(x) - force).max() > 100.0 * tables.SPLINE_TOLERANCE


def soft(name="soft", first=3, last=None, reach=12.0):
    """A pair force of long range, which bonded and second neighbours would feel at once."""

    def scalar(p, r, a, b):
        return p * (1.0 - r / reach) ** 3 * (1 + a) * (1 + b)

    return PairTerm(name, reach, first, scalar, last)


@pytest.mark.parametrize("separation", [1, 2, 3, 5])
def test_pairs_act_from_their_separation_on(tmp_path, separation):
    """A soft pair force of long range; two chains.

    Few steps: nothing keeps beads from falling into each other, where a table in r² is coarse.
    """
    few = dataclasses.replace(SETTINGS, steps=20)
    check_equal(tmp_path, soft(first=separation), {"soft": 0.05}, 1e-8, settings=few)


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 5), (2, 2), (2, 5)])
def test_pairs_act_in_a_window(tmp_path, first, last):
    """A term of near pairs alone: nothing acts far along the chain."""
    few = dataclasses.replace(SETTINGS, steps=20)
    check_equal(tmp_path, soft(first=first, last=last), {"soft": 0.05}, 1e-7, settings=few)


def test_several_pair_terms_with_their_own_windows_and_cutoffs(tmp_path):
    """One from 3 on, one from 1 to 4, one from 6 on with a longer reach."""
    model = SumOfTerms((soft(), soft("near", 1, 4, 9.0), soft("long", 6, None, 16.0)))
    params = {"soft": 0.02, "near": -0.03, "long": 0.01}
    few = dataclasses.replace(SETTINGS, steps=20)
    result = simulated(tmp_path, model, params, toy.topology(), toy.frames()[0], few)
    check_forces(model, params, toy.topology(), result, 1e-5)


def test_near_pairs_are_those_where_not_the_usual_terms_act():
    """Two chains of four and three: separation 2 for a term from 3 on; with a window also where it acts."""
    topology, usual = topology_from_species(np.zeros(7, int), breaks=(4,)), soft()
    window = soft("near", 2, 3)
    assert [n[:2] for n in near_pairs(topology, [usual])] == [(0, 2), (1, 3), (4, 6)]
    assert near_pairs(topology, [soft(first=2)]) == near_pairs(topology, [soft(first=1)]) == []
    found = {n[:2]: [t.name for t in n.terms] for n in near_pairs(topology, [usual, window])}
    assert found == {(0, 2): ["near"], (1, 3): ["near"], (4, 6): ["near"], (0, 3): ["soft", "near"]}
    assert [n[:2] for n in near_pairs(topology, [soft(first=1), soft("near", 3, 3)])] == [
        (0, 1), (0, 3), (1, 2), (2, 3), (4, 5), (5, 6),
    ]  # fmt: skip


def test_one_type_for_each_curve(tmp_path):
    """Codes of one class share a curve: three types of bonds, and the pseudo-bonds."""
    write_files(tmp_path / "lammps", toy.PRIORS, toy.params(), toy.topology(), toy.frames()[0], "test")
    data = (tmp_path / "lammps" / "beads.data").read_text()
    for line in ("4 bond types", "5 angle types", "3 dihedral types"):
        assert f"\n{line}\n" in data
    assert len(set(toy.topology().bond_types)) > 4


def bent_chain(angles_deg, seed=4):
    """Eight beads with the given six angles."""
    phi = np.random.default_rng(seed).uniform(-np.pi, np.pi, 5)
    return chain_from_internal(np.full(7, 3.8), np.deg2rad(angles_deg), phi)


@pytest.mark.parametrize("angles_deg", [[100, 120, 140, 149, 110, 95], [151, 100, 165, 172, 178, 155]])
def test_damped_dihedrals(tmp_path, angles_deg):
    """dihedral table/cut is the product of both switches and the table, in and below the switching range."""
    term = dataclasses.replace(toy.DIHEDRAL, damping=(np.deg2rad(150.0), np.pi))
    topology, x, model = topology_from_species(np.arange(8)), bent_chain(angles_deg), SumOfTerms((term,))
    few = dataclasses.replace(SETTINGS, steps=20)
    result = simulated(tmp_path, model, toy.params(), topology, x, few)
    check_forces(model, toy.params(), topology, result, 1e-7)
    undamped = term_values(SumOfTerms((toy.DIHEDRAL,)), toy.params(), topology, x[None])["dihedral"].energy
    damped = term_values(model, toy.params(), topology, x[None])["dihedral"].energy
    assert (max(angles_deg) > 150) == (abs(damped[0] - undamped[0]) > 0.1)


def test_damped_and_free_dihedrals_together(tmp_path):
    """Three terms on the same quadruples: free, and damped from two angles on."""
    others = [
        BondedTerm(f"extra{low}", "dihedral", lambda p, phi, kind: p * jnp.sin(phi), (np.deg2rad(low), np.pi))
        for low in (140.0, 160.0)
    ]
    model = SumOfTerms((toy.DIHEDRAL, *others))
    params = {**toy.params(), "extra140.0": 2.0, "extra160.0": 1.5}
    topology, x = topology_from_species(np.arange(8)), bent_chain([151, 100, 165, 172, 140, 155])
    few = dataclasses.replace(SETTINGS, steps=20)
    check_forces(model, params, topology, simulated(tmp_path, model, params, topology, x, few), 1e-7)


def test_a_damping_that_lammps_does_not_have_is_refused(tmp_path):
    model = SumOfTerms((dataclasses.replace(toy.DIHEDRAL, damping=(2.0, 3.0)),))
    with pytest.raises(ValueError, match=r"'dihedral' is damped up to 171.887 degrees"):
        write_files(tmp_path / "lammps", model, toy.params(), toy.topology(), toy.frames()[0], "test")


def stretched(chain):
    """The chain with two angles within the switching range of the dihedrals: 174 and 168 degrees."""
    x = chain.copy()
    for at, bend in ((3, 0.1), (17, 0.2)):
        arm = (x[at] - x[at - 1]) / np.linalg.norm(x[at] - x[at - 1])
        aside = np.cross(arm, [0.0, 0.0, 1.0])
        to = arm + bend * aside / np.linalg.norm(aside)
        x[at + 1 :] += x[at] + 3.8 * to / np.linalg.norm(to) - x[at + 1]
    return x


# tests/cli/test_export.py has the same terms, beside a network
@pytest.mark.slow
def test_the_whole_prior_with_its_optional_terms(tmp_path):
    """All of them, some angles nearly straight at the start, and 20 steps on.

    Walls and cutoffs jump in curvature between points of a table: within 1e-4 kcal/mol/Å.
    """
    model = SumOfTerms(prior_terms(prior_facts.FULL))
    params, topology = prior_facts.all_params(prior_facts.FULL), toy.topology()
    params["bond"]["x0"] = np.array([3.8, 3.85, 2.95])
    few = dataclasses.replace(SETTINGS, steps=20)
    result = simulated(tmp_path, model, params, topology, stretched(toy.frames()[0]), few)
    check_forces(model, params, topology, result, 1e-4)


@pytest.mark.parametrize("name", prior_facts.ALL_FORMS)
def test_every_form_of_the_prior_library(tmp_path, name):
    """Within 1e-8 of the rms force, at the start and 20 steps on; energies to 1e-6 kcal/mol."""
    entry = prior_facts.ALL_FORMS[name]
    params = {entry["name"]: prior_facts.params(entry)}
    topology, model = toy.topology(), SumOfTerms((prior_term(entry),))
    few = dataclasses.replace(SETTINGS, steps=20)
    result = simulated(tmp_path, model, params, topology, toy.frames()[0], few)
    errors = model_force_errors(model, params, topology, result.positions, result.forces)
    assert max(e.relative for e in errors) < 1e-8
    assert min(e.rms for e in errors) > 0.01
    expected = term_values(model, params, topology, result.positions)[entry["name"]].energy
    assert result.energy == pytest.approx(expected, abs=1e-6)


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


def test_a_pair_table_ends_with_the_slope_from_within():
    """½ (r_c - r)², whose force rises by 1 per Å within the cutoff: with the slope beyond it, which is zero,
    the spline of LAMMPS would be wrong in the last cell."""
    term = PairTerm("pair", 9.0, 3, lambda p, r, i, j: 0.5 * p * (9.0 - r) ** 2)
    r = tables.pair_grid(term.cutoff_A)
    (curve,) = tables.pair_curves([term], {"pair": 1.0}, r, [(0, 0)])
    slope = -1.0
    assert curve.end_slopes[1] == pytest.approx(slope, rel=1e-9)
    ends: Any = ((1, curve.end_slopes[0]), (1, curve.end_slopes[1]))
    spline = CubicSpline(r, curve.force, bc_type=ends)
    distance = 0.3 * (r[-1] - r[-2])
    assert spline(r[-1] - distance) == pytest.approx(-slope * distance, rel=1e-2)


def error_where_a_near_pair_ends(tmp_path, entry, end_A):
    """Of the force of two beads three apart along the chain, which LAMMPS has as a spline table."""
    term = prior_term(entry)
    params = {term.name: {"sigma": np.full((20, 20), 3.9)}}
    x = np.array([[0.0, 0.0, 0.0], [-2.0, 4.0, 0.0], [7.0, 4.0, 0.0], [end_A, 0.0, 0.0]])
    topology, model = topology_from_species([0, 1, 2, 3]), SumOfTerms((term,))
    few = dataclasses.replace(SETTINGS, steps=1)
    result = simulated(tmp_path, model, params, topology, x, few)
    errors = model_force_errors(model, params, topology, result.positions, result.forces)
    return max(e.max_error for e in errors)


@pytest.mark.parametrize("beyond_A", [-1e-3, -2e-4, -4e-5, 0.0, 4e-5, 2e-4])
def test_near_pairs_are_exact_where_their_repulsion_ends(tmp_path, beyond_A):
    """A jump of curvature of 0.3 kcal/mol/Å², which a shift to first order has here, would be rounded to
    1e-5 kcal/mol/Å."""
    entry = {**prior_facts.EXCLUDED_VOLUME, "cutoff_A": 5.0}
    assert error_where_a_near_pair_ends(tmp_path, entry, 5.0 + beyond_A) < 5e-8


def test_wca_of_near_pairs_is_rounded_where_it_ends(tmp_path):
    """Its curvature jumps there: what the README says, and `export --check` allows."""
    entry = {**prior_facts.EXCLUDED_VOLUME, "form": "wca"}
    found = [
        error_where_a_near_pair_ends(tmp_path / f"{k}", entry, WCA_CUTOFF * 3.9 + 1e-4 * k)
        for k in range(-2, 3)
    ]
    assert 1e-5 < max(found) < 1e-3


def test_forces_in_the_tables_are_minus_the_slope_of_the_energies():
    x = tables.bond_grid()
    for curve in tables.bonded_curves((toy.BOND,), toy.params(), x, [0, 14]):
        numeric = -np.gradient(curve.energy, x, edge_order=2)
        assert np.abs(curve.force - numeric)[1:-1].max() < 1e-6
        assert curve.end_slopes == pytest.approx((-100.0, -100.0))
