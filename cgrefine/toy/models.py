"""Energies of x that are fitted: networks, a spline, polynomials; a force without an energy; and the prior.

All are `FieldTerm`s named "network", so that loss, trainer, dynamics and estimator take them as they take any
other energy.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine.energy import FieldTerm, Params
from cgrefine.fm.priors import forms
from cgrefine.toy.potentials import EDGE_A

NAME = "network"

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
}

PERIOD_A = 12.0
"""Of the lowest Fourier feature: longer than the data are wide, so that both ends are free."""


def network(activation: str, hidden: Sequence[int], harmonics: int = 0) -> FieldTerm:
    """A perceptron of x/EDGE_A, and of `harmonics` Fourier features if there are any.

    Features are sin(k q x)/k and cos(k q x)/k, q = 2π/PERIOD_A: their slopes, which forces are made of, are
    of one size. Without them a perceptron learns high frequencies last (Rahaman et al., ICML 2019; Tancik et
    al., NeurIPS 2020).
    """
    inputs = 1 + 2 * harmonics
    energy = partial(_perceptron, ACTIVATIONS[activation], harmonics)
    return FieldTerm(NAME, energy, partial(_layers, (inputs, *hidden, 1)))


def direct(activation: str, hidden: Sequence[int]) -> FieldTerm:
    """A perceptron that is the force itself: matched in the same way, but there is no energy behind it.

    The energy is given as 0; its slope is minus the force.
    """
    value = partial(_perceptron, ACTIVATIONS[activation], 0)

    @jax.custom_jvp
    def nothing(params: Params, positions: Array) -> Array:
        return jnp.zeros(positions.shape[0], positions.dtype)

    @nothing.defjvp
    def _(at: Any, along: Any) -> tuple[Array, Array]:
        # no share of the parameters: an energy that is not there does not change with them
        params, positions = at
        return nothing(params, positions), -value(params, positions) * along[1][:, 0]

    return FieldTerm(NAME, nothing, partial(_layers, (1, *hidden, 1)))


def spline(knots: int) -> FieldTerm:
    """A cubic B-spline of so many coefficients from -EDGE_A to EDGE_A, see `forms.spline`; linear in them."""

    def energy(params: Params, positions: Array) -> Array:
        x = positions[:, 0]
        rows = jnp.zeros(x.shape, jnp.int32)
        return forms.spline(x, rows, jnp.asarray(params["c"])[None], -EDGE_A, EDGE_A)

    return FieldTerm(NAME, energy, lambda key: {"c": jnp.zeros(knots)})


def polynomial(degree: int) -> FieldTerm:
    """Features (x/EDGE_A)^m, m = 1 to degree: what a person would try first; linear in the coefficients."""

    def energy(params: Params, positions: Array) -> Array:
        u = positions[:, 0] / EDGE_A
        powers = u[:, None] ** jnp.arange(1, degree + 1)
        return powers @ jnp.asarray(params["c"], powers.dtype)

    return FieldTerm(NAME, energy, lambda key: {"c": jnp.zeros(degree)})


LINEAR: Mapping[str, tuple[Callable[[int], FieldTerm], tuple[int, ...]]] = {
    "spline": (spline, (8, 12, 16, 24, 50, 100, 400)),
    "features": (polynomial, (2, 4, 6, 8)),
}
"""Forms that are linear in their coefficients, and the numbers of them that are tried."""


def wall(k: float) -> FieldTerm:
    """The confining prior ½ k (|x| - EDGE_A)² beyond EDGE_A, k in kcal/mol/Å², and 0 where there are data."""

    def energy(params: Params, positions: Array) -> Array:
        return 0.5 * params["k"] * jnp.maximum(jnp.abs(positions[:, 0]) - EDGE_A, 0.0) ** 2

    return FieldTerm("wall", energy, lambda key: {"k": jnp.asarray(k)})


def wall_params(k: float) -> Params:
    """Of `wall`."""
    return {"wall": {"k": np.asarray(k)}}


@partial(jax.jit, static_argnums=0)
def _layers(sizes: tuple[int, ...], key: Array) -> Params:
    """Weights of variance 1/inputs, biases from -1 to 1, and 0 at the end."""
    layers = []
    for k, (inputs, outputs) in enumerate(pairwise(sizes)):
        one, other = jax.random.split(jax.random.fold_in(key, k))
        last = k == len(sizes) - 2
        layers.append(
            {
                "w": jax.random.normal(one, (inputs, outputs)) / math.sqrt(inputs),
                "b": jnp.zeros(outputs) if last else jax.random.uniform(other, (outputs,), minval=-1.0),
            }
        )
    return layers


def _perceptron(
    activation: Callable[[Array], Array], harmonics: int, params: Params, positions: Float[Array, "beads 3"]
) -> Float[Array, " beads"]:
    x = positions[:, :1]
    value = x / EDGE_A
    if harmonics:
        k = jnp.arange(1, harmonics + 1)
        phase = (2.0 * np.pi / PERIOD_A) * k.astype(x.dtype) * x
        value = jnp.concatenate([value, jnp.sin(phase) / k, jnp.cos(phase) / k], axis=1)
    *hidden, last = params
    for layer in hidden:
        value = activation(value @ layer["w"] + layer["b"])
    return (value @ last["w"] + last["b"])[:, 0]
