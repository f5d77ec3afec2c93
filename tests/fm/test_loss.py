"""The force-matching loss by hand, and what the residual is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import energy
from cgrefine.config.training import Train
from cgrefine.data.frames import frame_set
from cgrefine.data.loader import Decoys, Reading, Recipe, each, sweep, training_batches
from cgrefine.data.packing import budget_for
from cgrefine.energy import SumOfTerms
from cgrefine.fm import loss
from cgrefine.fm.devices import mesh_of
from cgrefine.fm.priors.parameters import scaling
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.fm.step import Matching
from tests.fm.toy import PRIOR, PRIOR_PARAMS, RADIAL, domain

READING = Reading(buffer_frames=16, prefetch=1, workers=0)

forces = jax.jit(energy.forces, static_argnums=0)
residual_forces = jax.jit(loss.residual_forces, static_argnums=0)


@pytest.fixture(scope="module")
def whole():
    """Both frames of six beads in one batch."""
    frames = frame_set([domain(6, 2, seed=2)], validation=False, cutoff_A=9.0)
    return next(each(sweep(frames, budget_for([frames], 12, 1.05), READING))).batch


def test_force_mse_by_hand():
    """Errors (3, 0, 0) and (0, 2, 2) with weights 1 and 0.5: (9 + 0.5·8) / (3 · 1.5)."""
    predicted = jnp.asarray([[3.0, 0, 0], [0, 2.0, 3.0], [5.0, 5, 5]])
    target = np.array([[0.0, 0, 0], [0, 0, 1.0], [0, 0, 0]])
    weight = np.array([1.0, 0.5, 0.0])
    assert float(loss.force_mse(predicted, target, weight)) == pytest.approx(13.0 / 4.5)


def test_rows_without_weight_may_hold_anything():
    def value(predicted):
        return loss.force_mse(predicted, np.zeros((2, 3)), np.array([1.0, 0.0]))

    predicted = jnp.asarray([[1.0, 2.0, 2.0], [np.nan, np.inf, 0.0]])
    assert float(value(predicted)) == pytest.approx(3.0)
    assert np.allclose(jax.grad(value)(predicted), [[2 / 3, 4 / 3, 4 / 3], [0, 0, 0]])
    assert float(loss.force_mse(predicted, np.zeros((2, 3)), np.zeros(2))) == 0.0


def test_residual_is_target_minus_prior_and_zero_on_decoys():
    frames = frame_set([domain(6, 3, seed=1)], validation=False, cutoff_A=9.0)
    budget = budget_for([frames], 30, 1.05)
    recipe = Recipe(Decoys(fraction=1.0, noise_A=0.3, weight=0.25))
    batch = next(each(training_batches(frames, budget, 0, 1, recipe, READING))).batch
    x = jnp.asarray(batch.positions)
    prior = forces(PRIOR, PRIOR_PARAMS, x, batch.system, batch.neighbors)
    residual = np.asarray(residual_forces(PRIOR, PRIOR_PARAMS, batch))
    real = (batch.weight == 1.0) & batch.system.bead_mask
    assert real.sum() > 0 and batch.decoy.sum() > 0
    assert np.allclose(residual[real], batch.target_forces[real] - np.asarray(prior)[real], rtol=1e-6)
    assert np.all(residual[batch.decoy] == 0.0)
    assert set(np.unique(batch.weight)) <= {0.0, 0.25, 1.0}


@pytest.fixture(scope="module")
def with_energies():
    """Three frames with energies and one of another domain, two without, and decoys; and the squares of the
    energies' errors for heights, with their slope."""
    domains = [
        domain(6, 3, seed=1, energies=True),
        domain(6, 1, seed=4, energies=True, temperature_K=400.0),
        domain(5, 2, seed=2),
    ]
    frames = frame_set(domains, validation=False, cutoff_A=9.0)
    budget = budget_for([frames], 70, 1.3)
    recipe = Recipe(Decoys(fraction=0.5, noise_A=0.3, weight=0.25))
    batch = next(each(training_batches(frames, budget, 0, 1, recipe, READING))).batch
    batch = batch._replace(positions=np.asarray(batch.positions, np.float64))

    def squares(heights, batch):
        found = loss.predicted(RADIAL, PRIOR, {"height": heights}, PRIOR_PARAMS, batch)
        return loss.energy_squares(found.energies, batch)

    return batch, jax.jit(jax.value_and_grad(squares))


def test_energy_squares_by_hand(with_energies):
    """Three frames have one unknown constant; the lone one of a domain, those without energies and decoys say
    nothing. Heights of (5, -3) against (6, -3)."""
    batch, squares = with_energies
    found, slope = squares(jnp.asarray([5.0, -3.0]), batch)
    one = {"height": jnp.asarray([-1.0, 0.0])}
    unit = np.asarray(RADIAL(one, jnp.asarray(batch.positions), batch.system, batch.neighbors))
    errors = np.asarray([unit[batch.system.graph_id == g].sum() for g in range(len(batch.gauge))])
    has = np.isfinite(batch.target_energies)
    assert has.sum() == 4 and sorted(np.bincount(batch.gauge[has])[np.unique(batch.gauge[has])]) == [1, 3]
    three = errors[has & (batch.gauge == np.bincount(batch.gauge[has]).argmax())]
    assert float(found) == pytest.approx(3.0 * three.var(ddof=1), rel=1e-4) and three.std() > 0.1
    assert np.all(np.isfinite(slope)) and float(slope[0]) == pytest.approx(-2.0 * float(found), rel=1e-4)
    shifted = batch._replace(target_energies=batch.target_energies + 10.0 * batch.gauge)
    assert float(squares(jnp.asarray([5.0, -3.0]), shifted)[0]) == pytest.approx(float(found), rel=1e-4)
    assert float(squares(jnp.asarray([6.0, -3.0]), batch)[0]) < 1e-6 * float(found)


def test_matching_loss_vanishes_for_the_teacher(whole):
    @jax.jit
    def squares(heights):
        found = loss.predicted(RADIAL, PRIOR, {"height": heights}, PRIOR_PARAMS, whole)
        return loss.matching_squares(found, whole)

    teacher, nothing = squares(jnp.asarray([6.0, -3.0])), squares(jnp.zeros(2))
    assert float(teacher) < 1e-9 * float(nothing)


def test_joint_loss_by_hand(whole):
    """Both wrong: the error of network and moved prior together, and the penalty of z = (2, 0)."""
    batch = whole
    facts = {"terms": [{"name": "bond", "kind": "bond", "form": "harmonic", "classes": "global"}]}
    fitted = {"bond": {"k": jnp.full(2, 100.0), "x0": jnp.full(2, 3.8)}}
    prior, scales = SumOfTerms(prior_terms(facts)), scaling(facts, fitted, 0.6)
    z = {"bond": {"k": jnp.asarray([2.0, 0.0]), "x0": jnp.zeros(2)}}
    params = {"network": {"height": jnp.asarray([5.0, 0.0])}, "priors": z}
    settings = Train(epochs=1, prior_penalty=0.1)
    matching = Matching(RADIAL, prior, settings, settings, lambda step: 0.1, mesh_of(), scales)
    value = jax.jit(lambda p: matching.sums(p, fitted, batch).mean)(params)
    stiff = {"bond": {"k": 100.0 * jnp.exp(jnp.asarray([0.6, 0.0])), "x0": jnp.full(2, 3.8)}}
    both = SumOfTerms((*prior.terms, RADIAL))
    x = jnp.asarray(batch.positions)
    found = forces(both, {**stiff, "network": params["network"]}, x, batch.system, batch.neighbors)
    error = loss.force_mse(found, batch.target_forces, batch.weight)
    square = loss.force_mse(jnp.zeros_like(found), batch.target_forces, batch.weight)
    assert float(value) == pytest.approx(float(error) + 0.1 * float(square) * 2.0**2 / 4, rel=1e-6)


def test_huber_by_hand():
    """Errors of length 3 and 5 at a width of 4: 9 and 2·5·4 - 16; without weight nothing, even NaN."""
    predicted = jnp.asarray([[1.0, 2.0, 2.0], [3.0, 4.0, 0.0], [np.nan, 0, 0]])
    weight = np.array([1.0, 2.0, 0.0])
    found = loss.huber_squares(predicted, np.zeros((3, 3)), weight, 4.0)
    assert float(found) == pytest.approx(9.0 + 2.0 * 24.0)
    assert float(loss.huber_squares(predicted, np.zeros((3, 3)), weight, 1e3)) == pytest.approx(9.0 + 50.0)
    slope = jax.grad(lambda x: loss.huber_squares(x, np.zeros((3, 3)), weight, 4.0))(predicted)
    assert np.allclose(slope, [[2, 4, 4], [2 * 8 * 0.6, 2 * 8 * 0.8, 0], [0, 0, 0]])
    still = jax.grad(lambda x: loss.huber_squares(x, np.zeros((1, 3)), np.ones(1), 4.0))(jnp.zeros((1, 3)))
    assert np.all(still == 0.0)
