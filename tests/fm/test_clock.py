"""The clock of training against programs and batches whose times are known."""

import math
import time
from typing import Any

import jax
import jax.numpy as jnp

from cgrefine.fm.clock import Clock


@jax.jit
def long_product(x):
    """Tenths of a second of matrix products."""
    for _ in range(4):
        x = jnp.tanh(x @ x)
    return x


@jax.jit
def short_sum(x):
    return x + 1.0


def run(update, batches, count, x: Any = 0.5):
    clock = Clock()
    for _ in range(count):
        clock.fetched(batches)
        clock.updated(update(x))
    jax.block_until_ready(update(x))
    return clock


def test_batches_that_come_while_the_devices_work_are_not_waited_for():
    """The last update before a fetch is still under way: no device has idled."""
    _, waiting = run(long_product, lambda: None, 4, jnp.full((800, 800), 1e-3)).read()
    assert waiting == 0.0


def test_time_for_batches_while_the_devices_idle_is_waiting():
    """Each pause of 50 ms finds the update before it at its end: at least two whole pauses count."""
    seconds, waiting = run(short_sum, lambda: time.sleep(0.05), 4).read()
    assert waiting * seconds * 3 >= 0.1 and waiting <= 1.0


def test_one_update_has_no_share_of_waiting():
    seconds, waiting = run(short_sum, lambda: None, 1).read()
    assert seconds > 0.0 and math.isnan(waiting)
    assert all(math.isnan(x) for x in Clock().read())
