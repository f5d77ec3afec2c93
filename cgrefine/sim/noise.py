"""Gaussian noise of MD from a counter: Threefry-2x32 with 20 rounds, unrolled into one fused loop.

The words are those of jax.random's own generator (a test compares them), whose loop over rounds costs
seven times as much on a CPU: in MD of priors alone it would be half of the step.
Salmon, Moraes, Dror & Shaw, Proc. SC11, 16 (2011).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(
    key: UInt[Array, "2"], first: UInt[Array, "..."], second: UInt[Array, "..."]
) -> tuple[UInt[Array, "..."], UInt[Array, "..."]]:
    """Two random words for each counter (first, second), uint32, elementwise. key: `jax.random.key_data`."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    a, b = first + keys[0], second + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            a = a + b
            b = ((b << rotation) | (b >> (32 - rotation))) ^ a
        a = a + keys[(group + 1) % 3]
        b = b + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return a, b


def normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Float[Array, "..."]:
    """Independent standard normal numbers: the same key and shape give the same numbers.

    22 random bits each, through the inverse error function: the largest is 5.1 in size.
    """
    places = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    bits, _ = threefry(jax.random.key_data(key), places, jnp.zeros_like(places))
    # exponent of 2, last bit set: odd multiples of 2^-22 between 2 and 4, symmetric about 3, never 2 or 4
    unit = jax.lax.bitcast_convert_type((bits >> 9) | jnp.uint32(0x40000001), jnp.float32)
    uniform = unit - jnp.float32(3.0)
    return (jnp.float32(2.0**0.5) * jax.lax.erf_inv(uniform)).astype(dtype)
