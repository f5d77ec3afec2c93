"""Optimisers by name against those of optax, which they are meant to be."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cgrefine.config.training import OptimizerName, Train
from cgrefine.fm import optimizers
from cgrefine.fm.step import of_the_network

RATE, DECAY, FAR = 0.02, 0.1, 1e9
NAMED = {
    "adabelief": optax.adabelief(RATE),
    "adam": optax.adamw(RATE, weight_decay=DECAY),
    "yogi": optax.yogi(RATE),
    "lion": optax.lion(RATE, weight_decay=DECAY),
    "sgd": optax.sgd(RATE, momentum=0.9, nesterov=True),
    "polyak_sgd": optax.polyak_sgd(RATE),
    "fromage": optax.fromage(RATE),
}
DECAYED = ("adam", "lion")


def loss(params):
    x, y = params["matrix"], params["matrix"] @ params["vector"]
    return jnp.sum((y - jnp.asarray([1.0, -2.0, 0.5])) ** 2) + 0.01 * jnp.sum(x**4)


def course(rule, rates) -> tuple[list[Any], list[float]]:
    """Parameters and losses after each update by rule(rate), whose state does not hold the rate: compiled
    once, with the rate as an argument."""
    rng = np.random.default_rng(0)
    params: Any = {"matrix": jnp.asarray(rng.normal(size=(3, 3))), "vector": jnp.asarray(rng.normal(size=3))}

    @jax.jit
    def advanced(params, state, rate):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = rule(rate).update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    state, path, losses = jax.jit(rule(0.0).init)(params), [], []
    for rate in rates:
        params, state, value = advanced(params, state, rate)
        path.append(params)
        losses.append(float(value))
    return path, losses


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_it_is_that_of_optax(name):
    """Five steps at a constant rate, without clipping; decoupled decay of all leaves where there is one.

    A rate that is 0 afterwards: nothing moves from then on.
    """
    decay = DECAY if name in DECAYED else 0.0

    def rule(rate):
        return optimizers.optimizer(name, rate, FAR, decay, lambda p: jax.tree.map(lambda _: True, p))

    path, losses = course(rule, [RATE] * 5 + [0.0] * 2)
    expected, _ = course(lambda _: optax.with_extra_args_support(NAMED[name]), [RATE] * 5)
    for a, b in zip(jax.tree.leaves(path[4]), jax.tree.leaves(expected[4]), strict=True):
        assert np.allclose(a, b, rtol=1e-9, atol=1e-9)
    assert losses[4] < losses[0]
    assert not np.allclose(path[4]["matrix"], path[3]["matrix"], rtol=1e-6)
    assert np.allclose(path[6]["matrix"], path[4]["matrix"], rtol=1e-12)


def test_the_norm_is_clipped_before():
    made: Any = optimizers.optimizer("sgd", 1.0, 0.01, 0.0)
    params = {"matrix": jnp.ones((2, 2))}
    updates, _ = made.update({"matrix": 5.0 * jnp.ones((2, 2))}, made.init(params), params, value=1.0)
    assert float(optax.tree.norm(updates)) == pytest.approx(0.01 * 1.9)


def test_updates_that_are_not_finite_are_skipped():
    made: Any = optimizers.optimizer("adabelief", 0.1, 1.0, 0.0)
    params = {"matrix": jnp.ones((2, 2))}
    begin = made.init(params)
    updates, state = made.update({"matrix": jnp.full((2, 2), jnp.nan)}, begin, params, value=1.0)
    assert np.all(updates["matrix"] == 0.0)
    updates, _ = made.update({"matrix": jnp.ones((2, 2))}, state, params, value=1.0)
    assert np.all(np.isfinite(updates["matrix"])) and np.all(updates["matrix"] != 0.0)


def test_weight_decay_acts_on_matrices_of_the_network_alone():
    """Without a gradient a decayed matrix shrinks by (1 - rate · decay); vectors and priors stay."""
    params = {"matrix": jnp.ones((2, 2)), "vector": jnp.ones(2)}
    made: Any = optimizers.optimizer("adabelief", 0.1, 1.0, 0.5)
    updates, _ = made.update(jax.tree.map(jnp.zeros_like, params), made.init(params), params)
    assert np.allclose(updates["matrix"], -0.05) and np.all(updates["vector"] == 0.0)
    both = {"network": {"w": jnp.ones((2, 2))}, "priors": {"repulsion": {"sigma": jnp.ones((2, 2))}}}
    made = optimizers.optimizer("adabelief", 0.1, 1.0, 0.5, of_the_network)
    updates, _ = made.update(jax.tree.map(jnp.zeros_like, both), made.init(both), both)
    network, sigma = jax.tree.leaves(updates)
    assert np.allclose(network, -0.05) and np.all(sigma == 0.0)


def test_decay_where_there_is_no_place_for_it():
    with pytest.raises(ValueError, match=r"weight_decay 0\.1: fromage has none"):
        Train(epochs=1, optimizer="fromage", weight_decay=0.1)
    with pytest.raises(ValueError, match="polyak_sgd, which has none"):
        optimizers.optimizer("polyak_sgd", 1.0, 1.0, 0.1)
