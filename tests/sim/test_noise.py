"""Noise of MD: the words of jax.random's generator, and the moments of a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from cgrefine.sim import noise

KEY = jax.random.key(5)


def test_words_are_those_of_the_library_generator():
    data = jax.random.key_data(KEY)
    counters = np.random.default_rng(0).integers(0, 2**32, (2, 1000), dtype=np.uint32)
    ours = np.concatenate(noise.threefry(data, jnp.asarray(counters[0]), jnp.asarray(counters[1])))
    assert np.array_equal(ours, np.asarray(threefry_2x32(data, jnp.asarray(counters.ravel()))))


def test_noise_is_gaussian_and_independent_from_step_to_step():
    """Mean, variance, fourth moment, correlation between steps: five standard errors (false alarm 3e-6)."""
    draw = jax.jit(lambda step: noise.normal(jax.random.fold_in(KEY, step), (400, 3), jnp.float64))
    z = np.stack([np.asarray(draw(step)) for step in range(300)])
    n = z.size
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / n)
    assert abs((z[1:] * z[:-1]).mean()) < 5 / np.sqrt(n)
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 5 / np.sqrt(n)
    assert np.isfinite(z).all() and np.abs(z).max() > 4.0
