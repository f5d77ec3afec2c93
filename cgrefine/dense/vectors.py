"""Vectors along a chain as three arrays (R, m), one a component."""

import jax.numpy as jnp
from jaxtyping import Array

Vector = tuple[Array, Array, Array]


def bonds(x: Array) -> Vector:
    """b_k = x_{k+1} - x_k of positions (3, R, L): vectors (R, L-1)."""
    d = x[:, :, 1:] - x[:, :, :-1]
    return d[0], d[1], d[2]


def dot(a: Vector, b: Vector) -> Array:
    """a·b, (R, m)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vector, b: Vector) -> Vector:
    """a x b, right-handed."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def cut(v: Vector, left: int, right: int) -> Vector:
    """Without so many places at either end of the chain."""
    m = v[0].shape[1]
    return v[0][:, left : m - right], v[1][:, left : m - right], v[2][:, left : m - right]


def padded(v: Vector, left: int, right: int) -> Vector:
    """With so many zeros more at either end of the chain: `cut` undone."""
    x, y, z = (jnp.pad(c, ((0, 0), (left, right))) for c in v)
    return x, y, z


def scaled(factor: Array, v: Vector) -> Vector:
    """factor · v, with factor (R, m)."""
    return factor * v[0], factor * v[1], factor * v[2]


def added(u: Vector, v: Vector) -> Vector:
    """u + v."""
    return u[0] + v[0], u[1] + v[1], u[2] + v[2]


def nonzero(value: Array) -> Array:
    """The value, or ∞ for 0: a divisor by which nothing becomes infinite."""
    return jnp.where(value == 0.0, jnp.inf, value)
