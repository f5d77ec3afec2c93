"""The chunked reverse pass against the derivative of the whole sum, and against frames with known answers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import energy, neighbors, system
from cgrefine.boltzmann import surrogate
from cgrefine.boltzmann.gradient import coefficients
from cgrefine.boltzmann.surrogate import Ensemble, surrogate_gradient
from cgrefine.energy import SumOfTerms
from tests.chains import random_chain, random_topology
from tests.fm.toy import CUTOFF, PRIOR, RADIAL

MODEL = SumOfTerms((*PRIOR.terms, RADIAL))
PARAMS = {"bond": np.asarray(100.0), "network": {"height": np.array([6.0, -3.0])}}


def ensemble(n=9, count=11, seed=0, per_bead=False):
    rng = np.random.default_rng(seed)
    frames = np.stack([random_chain(n, 50 * seed + k) for k in range(count)])
    return Ensemble(random_topology(n, seed), frames, rng.normal(size=(count, n) if per_bead else count))


def gradient(*ensembles, **kwargs):
    return surrogate_gradient(MODEL, PARAMS, ensembles, CUTOFF, **kwargs)


def at_once(*ensembles):
    """The same sum with all frames of an ensemble in one graph with exactly its edges."""

    @jax.jit
    def value(params, packed, x, near, a):
        return jnp.sum(a * MODEL(params, x, packed, near))

    total = jax.tree.map(np.zeros_like, PARAMS)
    for e in ensembles:
        count, n = e.positions.shape[:2]
        packed, x = system.pack([e.topology] * count), e.positions.reshape(-1, 3)
        a = np.broadcast_to(e.coefficients.reshape(count, -1), (count, n)).reshape(-1)
        near = neighbors.exact(packed, x, CUTOFF)
        found = jax.grad(value)(PARAMS, packed, jnp.asarray(x), near, a)
        total = jax.tree.map(jnp.add, total, found)
    return total


def assert_close(found, expected, rtol=1e-10):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def test_it_is_the_sum_over_frames_of_two_proteins_with_coefficients_of_frames_and_of_beads():
    both = ensemble(), ensemble(13, 5, seed=1, per_bead=True)
    assert_close(gradient(*both), at_once(*both))


def test_chunks_and_order_change_nothing():
    e, whole = ensemble(), gradient(ensemble())
    order = np.random.default_rng(2).permutation(len(e.positions))
    for beads in (9, 7 * 9):
        assert_close(gradient(e, chunk_beads=beads), whole)
    shuffled = e._replace(positions=e.positions[order], coefficients=e.coefficients[order])
    assert_close(gradient(shuffled, chunk_beads=30), whole)


def test_a_masked_frame_of_nan_equals_a_removed_one():
    e = ensemble()
    dead = np.arange(len(e.positions)) % 4 == 1
    frames = np.where(dead[:, None, None], np.nan, e.positions)
    masked = e._replace(positions=frames, coefficients=np.where(dead, 0.0, e.coefficients))
    removed = e._replace(positions=e.positions[~dead], coefficients=e.coefficients[~dead])
    assert_close(gradient(masked), gradient(removed), rtol=1e-14)
    with pytest.raises(ValueError, match="not finite"):
        gradient(e._replace(positions=frames))


def test_nothing_to_differentiate_is_refused():
    e = ensemble()
    with pytest.raises(ValueError, match="no frame has a coefficient"):
        gradient(e._replace(coefficients=np.zeros(len(e.positions))))


def test_a_function_of_the_parameters_added_to_the_energy_changes_nothing():
    """Coefficients of a covariance sum to zero: U + c(θ) has the gradient of U."""
    e = ensemble()
    count = len(e.positions)
    a = coefficients(e.positions[:, -1, :2], np.full(count, 1 / count), np.array([1.0, -2.0]), 1.7)
    e = e._replace(coefficients=a)

    def shifted(params, positions, system, neighbors):
        own = MODEL(params, positions, system, neighbors)
        beads = jax.ops.segment_sum(jnp.ones_like(own), system.graph_id, system.graph_mask.shape[0])
        return own + params["bond"] ** 2 / beads[system.graph_id]

    plain, added = gradient(e), surrogate_gradient(shifted, PARAMS, (e,), CUTOFF)
    assert_close(added, plain)


def test_observables_that_depend_on_the_parameters_add_their_own_derivative():
    """The mean energy: ⟨∂U/∂θ⟩ is added to the covariance part."""
    e = ensemble()
    p = np.full((len(e.positions), 1), 1 / len(e.positions))

    def energies(params, positions, packed, near):
        per_bead = MODEL(params, positions, packed, near)
        return energy.graph_energies(per_bead, packed.graph_id, packed.graph_mask.shape[0])[:, None]

    found = gradient(e._replace(explicit=p), explicit=energies, chunk_beads=27)
    assert_close(found, at_once(e._replace(coefficients=e.coefficients + p[:, 0])))


def test_one_program_serves_all_chunks_and_later_parameters():
    e, own = ensemble(count=23, seed=3), SumOfTerms((replace(RADIAL, name="another"),))
    compiled = getattr(surrogate._gradient, "_cache_size")  # noqa: B009  (JAX has no typed name for it)
    before = compiled()
    for scale in (1.0, 1.5):
        params = {"another": {"height": scale * PARAMS["network"]["height"]}}
        surrogate_gradient(own, params, (e, ensemble(7, 4, seed=4)), CUTOFF, chunk_beads=64)
    assert compiled() == before + 1


def test_single_precision_agrees():
    e = ensemble()
    single = e._replace(positions=e.positions.astype(np.float32))
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), PARAMS)
    found = surrogate_gradient(MODEL, params, (single,), CUTOFF)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found))
    assert_close(found, gradient(e), rtol=1e-5)


def test_devices_do_not_change_the_sum():
    """To the bit, in single precision: chunks are added in their order, whoever made them."""
    e = ensemble(count=23, seed=5)
    e = e._replace(positions=e.positions.astype(np.float32))
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), PARAMS)
    (device,) = jax.local_devices()[:1]
    one, three = (
        surrogate_gradient(MODEL, params, (e,), CUTOFF, chunk_beads=27, devices=[device] * k) for k in (1, 3)
    )
    for a, b in zip(*map(jax.tree.leaves, (one, three)), strict=True):
        assert np.array_equal(a, b) and a.any()
