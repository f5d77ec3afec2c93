"""Training on an observable alone: a spring found from the distribution of its length, on exact samples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cgrefine.boltzmann.gradient import split_half_coefficients
from cgrefine.boltzmann.surrogate import Ensemble, surrogate_gradient
from cgrefine.boltzmann.targets import target
from cgrefine.observables.histogram import bins, mass
from cgrefine.observables.statistics import estimate
from cgrefine.observables.structure import end_to_end, scalar_histogram
from cgrefine.system import topology_from_species
from tests import analytic
from tests.analytic import BOND

pytestmark = pytest.mark.stages

KT, TRUE = 0.6, {"k": 120.0, "r0": 3.8}
BINS = bins(2.6, 5.0, 0.02)
LENGTH = scalar_histogram("bond", "Å", end_to_end, BINS)
PAIRS = 100
TOGETHER = topology_from_species([0] * 2 * PAIRS, breaks=range(2, 2 * PAIRS, 2))
"""So many pairs as one molecule, each with the coefficient of its own frame: quicker to pack."""
FRAMES, REFERENCE = 2000, 50_000
START = {"k": 80.0, "r0": 3.86}


def spring(params):
    """k and r0 of parameters of the size of one: their steps are relative, and of 0.1 Å."""
    return {"k": 60.0 * jnp.exp(params["log_k"]), "r0": 3.8 + 0.1 * params["r0"]}


def energy(params, r):
    return analytic.spring(spring(params), r)


MODEL = analytic.OfPairs(energy)


def sampled(params, count, rng):
    """Frames (count, 2, 3) of the ensemble of these parameters, and their histograms (count, bins)."""
    frames = analytic.pairs_at(BOND.sample(params, KT, count, rng), rng)
    return frames, np.asarray(LENGTH.of_frames(jnp.asarray(frames)), np.float64)


@pytest.fixture(scope="module")
def goal():
    """The target, from 20 groups of exact samples of the true spring; its floor is the loss of halves."""
    frames, _ = sampled(TRUE, REFERENCE, np.random.default_rng(7))
    return target(LENGTH, estimate(LENGTH, np.split(frames, 20)), "cdf")


def trained(goal, steps, sign=1.0, seed=8):
    """Adam, its rate falling to zero; the mean spring of the last quarter. sign: -1 plants a wrong one."""
    rng, p = np.random.default_rng(seed), np.full(FRAMES, 1.0 / FRAMES)
    second = np.arange(FRAMES) % 2 == 0
    params = {"log_k": jnp.asarray(np.log(START["k"] / 60.0)), "r0": jnp.asarray((START["r0"] - 3.8) / 0.1)}
    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, steps))
    state, late = optimiser.init(params), []
    for step in range(steps):
        frames, values = sampled(jax.tree.map(float, spring(params)), FRAMES, rng)
        a = split_half_coefficients(values, p, lambda mean: sign * goal.slope(mean), 1.0 / KT, second)
        of_beads = np.repeat(a, 2).reshape(-1, 2 * PAIRS)
        ensemble = Ensemble(TOGETHER, frames.reshape(-1, 2 * PAIRS, 3), of_beads)
        gradient = surrogate_gradient(MODEL, params, [ensemble], 0.0)
        updates, state = optimiser.update(gradient, state)
        params = optax.apply_updates(params, updates)
        if step >= 3 * steps // 4:
            late.append(jax.tree.map(float, spring(params)))
    return {name: float(np.mean([one[name] for one in late])) for name in TRUE}


def loss(goal, params):
    """In units of the floor, from 10⁶ new samples."""
    r = BOND.sample(params, KT, 1_000_000, np.random.default_rng(9))
    return goal.value(np.asarray(mass(r, BINS)))


def test_a_spring_is_recovered_from_the_distribution_of_its_length(goal):
    """k to 2 % and r0 to 0.2 %, of which the reference itself knows k to √(2/50,000) = 0.6 %.

    The loss comes to its floor from thousands of it; the true spring would be at 0.26.
    """
    found = trained(goal, 100)
    assert found["k"] == pytest.approx(TRUE["k"], rel=0.02)
    assert found["r0"] == pytest.approx(TRUE["r0"], rel=0.002)
    assert loss(goal, found) < 1.0
    assert loss(goal, START) > 1000.0


def test_the_wrong_sign_leads_away(goal):
    assert loss(goal, trained(goal, 10, sign=-1.0)) > 2.0 * loss(goal, START)
