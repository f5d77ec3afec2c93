"""A bundle as a model again: its forces are those of the force field that it was made of."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import energy, neighbors, system, units
from cgrefine.config.running import Criteria, Export
from cgrefine.errors import InputError
from cgrefine.export.bundle import write_bundle
from cgrefine.export.loaded import load_model
from cgrefine.fm.forcefield import prior_only
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.rollout import rollout, settings
from cgrefine.sim.stability import checks
from cgrefine.status import Status
from tests.export import toy
from tests.fm.prior_toy import BOND, REPULSION, TRUE

PRIORS = prior_only({"terms": [BOND, REPULSION]}, TRUE, 300.0)
MODEL = energy.SumOfTerms((*PRIORS.model.terms, toy.NETWORK))
PARAMS = {**PRIORS.params, "network": toy.params()["network"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Springs and repulsion of the package, and the toy's network."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    made = Export(reference_frames=3)
    write_bundle(folder, MODEL, PARAMS, toy.topology(), toy.frames(), "toy", made, PRIORS.facts)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return load_model(folder, prior_terms)


def evaluated(model, params, topologies, x, dtype=np.float64):
    """Energy of each graph and forces of a packed graph: all pairs, masked beyond the cutoff."""
    packed = system.pack(topologies)
    i, j = neighbors.candidates(packed)
    near = np.linalg.norm(x[i] - x[j], axis=1) < model.cutoff_A
    listed = neighbors.Neighbors(i, j, near, np.asarray(False))
    per_bead, forces = EVALUATE(model, params, jnp.asarray(x, dtype), packed, listed)
    return np.asarray(energy.graph_energies(per_bead, packed.graph_id, len(topologies))), np.asarray(forces)


EVALUATE = jax.jit(energy.bead_energies_and_forces, static_argnums=0)


def test_forces_of_replicas_are_the_models(loaded):
    """Two replicas in one packed graph, one of them far away and with other residues."""
    other = system.topology_from_species((toy.topology().species + 3) % 20, breaks=toy.SEQUENCE_BREAKS)
    topologies = [toy.topology(), other]
    x = toy.frames(count=2) + np.array([0.0, 500.0])[:, None, None]
    x = x.reshape(-1, 3)
    energies, forces = evaluated(loaded.model, loaded.params, topologies, x)
    expected, reference = evaluated(MODEL, PARAMS, topologies, x)
    limit = loaded.bundle.selftest.force_limit
    assert np.abs(reference).max() > 1e3 * limit
    assert np.abs(forces - reference).max() < limit
    assert np.abs(energies - expected).max() < 1e-4 and np.ptp(expected) > 1.0


@pytest.mark.slow
def test_one_force_is_minus_the_gradient(loaded):
    """Of the network alone, by central differences of energies in float32: h = 0.02 Å, error about 1e-3."""
    term, x, h = loaded.model.only(("network",)), toy.frames()[0], 0.02
    _, forces = evaluated(term, loaded.params, [toy.topology()], x)
    for bead, axis in ((3, 0), (11, 2)):
        step = np.zeros_like(x)
        step[bead, axis] = h
        up, down = (evaluated(term, loaded.params, [toy.topology()], x + s)[0][0] for s in (step, -step))
        assert forces[bead, axis] == pytest.approx((down - up) / (2 * h), abs=0.02 * np.abs(forces).max())


def test_equal_bundles_are_equal_models(folder, loaded, tmp_path):
    again = load_model(shutil.copytree(folder, tmp_path / "copy"), prior_terms)
    assert again.model == loaded.model and hash(again.model) == hash(loaded.model)
    assert loaded.temperature_K == 300.0


def test_proteins_of_other_sizes_in_one_packed_graph(loaded):
    """Ten and forty beads, padded, with the energy of every bead: not only that of the molecule."""
    topologies = [toy.chain(10), toy.chain(40)]
    x = np.concatenate([toy.frames(10)[0], toy.frames(40)[0] + 80.0])
    packed = system.pack(topologies, system.exact_capacity(topologies)._replace(beads=56, graphs=3))
    x = np.concatenate([x, np.full((6, 3), np.nan)])
    near = neighbors.exact(packed, x, MODEL.cutoff_A)
    found = EVALUATE(loaded.model, loaded.params, jnp.asarray(x), packed, near)
    expected = EVALUATE(MODEL, PARAMS, jnp.asarray(x), packed, near)
    assert np.abs(expected[0]).max() > 1.0 and not np.asarray(found[0])[50:].any()
    assert np.abs(found[0] - expected[0]).max() < 1e-4
    assert np.abs(found[1] - expected[1]).max() < loaded.bundle.selftest.force_limit


@pytest.mark.slow
def test_the_engine_runs_it(loaded):
    """Two replicas, 10 steps in float32: bit for bit no model of ours, but within rounding of it."""
    packed = system.pack([toy.topology()] * 2)
    x = np.concatenate([toy.frames()[0]] * 2).astype(np.float32)
    dt = units.from_fs(1.0)
    limits = checks(
        packed,
        np.full(len(packed.bonds), 3.8),
        Criteria(
            bond_deviation_A=20.0,
            size_limits=False,
            second_neighbor_min_A=0.01,
            overlap_min_A=0.01,
            max_force_kcal_mol_A=1e6,
            max_kinetic_kT=1e9,
        ),
    )
    found = []
    for model, params in ((loaded.model, loaded.params), (MODEL, PARAMS)):
        run = settings(10 * dt, 5 * dt, dt, model.cutoff_A)
        chunks = rollout(
            model, params, packed, x, np.full(2, 0.6), jax.random.key(1), Langevin(dt, 0.1), run, limits
        )
        found.append(list(chunks)[-1])
    assert (found[0].status == Status.OK).all()
    assert np.abs(found[0].positions - found[1].positions).max() < 1e-4
    assert np.abs(found[0].positions[-1] - x).max() > 0.05
    assert np.abs(found[0].potential - found[1].potential).max() < 1e-2


def test_a_bundle_without_facts_is_for_LAMMPS_alone(bundle_folder):
    with pytest.raises(InputError, match="only LAMMPS can run it; export it again"):
        load_model(bundle_folder, prior_terms)


def test_a_model_of_a_bundle_is_not_exported_again(loaded, tmp_path):
    with pytest.raises(ValueError, match="not exported again"):
        write_bundle(
            tmp_path / "b", loaded.model, loaded.params, toy.topology(), toy.frames(), "toy", Export()
        )
