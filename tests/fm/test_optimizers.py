"""Optimisers by name against those of optax, which they are meant to be."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cgrefine.config.schema import OptimizerName, Train
from cgrefine.fm import optimizers

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


def course(optimizer, steps) -> tuple[Any, list[float]]:
    rng = np.random.default_rng(0)
    params = {"matrix": jnp.asarray(rng.normal(size=(3, 3))), "vector": jnp.asarray(rng.normal(size=3))}
    state, losses = optimizer.init(params), []
    for _ in range(steps):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params, value=value)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    return params, losses


@pytest.mark.parametrize("name", NAMED)
def test_it_is_that_of_optax(name):
    """Five steps at a constant rate, without clipping; decoupled decay of all leaves where there is one."""
    decay = DECAY if name in DECAYED else 0.0
    made = optimizers.optimizer(
        name, lambda step: RATE, RATE, FAR, decay, lambda p: jax.tree.map(lambda _: True, p)
    )
    found, losses = course(made, 5)
    expected, _ = course(optax.with_extra_args_support(NAMED[name]), 5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.allclose(a, b, rtol=1e-9, atol=1e-9)
    assert losses[-1] < losses[0]


def test_the_rate_follows_its_schedule():
    """A rate that is 0 after two steps: nothing moves from then on, whatever the rule."""

    def ending(step):
        return jnp.where(jnp.asarray(step) < 2, RATE, 0.0)

    for name in get_args(OptimizerName):
        made = optimizers.optimizer(name, ending, RATE, FAR, 0.0)
        two, more = course(made, 2)[0], course(made, 6)[0]
        assert np.allclose(two["matrix"], more["matrix"], rtol=1e-12), name


def test_the_norm_is_clipped_before():
    made = optimizers.optimizer("sgd", lambda step: 1.0, 1.0, 0.01, 0.0)
    params = {"matrix": jnp.ones((2, 2))}
    updates, _ = made.update({"matrix": 5.0 * jnp.ones((2, 2))}, made.init(params), params, value=1.0)
    assert float(optax.tree.norm(updates)) == pytest.approx(0.01 * 1.9)


def test_decay_where_there_is_no_place_for_it():
    with pytest.raises(ValueError, match=r"weight_decay 0\.1: fromage has none"):
        Train(epochs=1, optimizer="fromage", weight_decay=0.1)
    with pytest.raises(ValueError, match="polyak_sgd, which has none"):
        optimizers.optimizer("polyak_sgd", lambda step: 1.0, 1.0, 1.0, 0.1)
