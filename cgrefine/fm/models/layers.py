"""What networks share: radial basis, envelope, dense layers, the bookkeeping of parameters."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cgrefine import geometry
from cgrefine.energy import NetworkTerm, Params

SILU_GAIN = 1.6765
"""1/sqrt(E[silu(z)²]) for standard normal z: activations keep unit mean square."""

FINAL_SCALE = 1.0e-2
"""Initial scale of the output layer: an untrained network is small beside the priors."""


Size = Any
"""A number of beads: an int, or the symbol for it while a program is exported."""

ENTROPY = "_entropy"
"""What the layers that make S add to the names of those that make U, see `readout`."""


def network(bead_energies: Callable[..., Array], facts: Any, hops: int) -> NetworkTerm:
    """The energy term "network" of bead_energies(facts, vectors, species, senders, receivers, edge_mask).

    bead_energies gives (n, 1), or (n, 2) when facts.reference_K conditions it on temperature.
    The function is one for hk.transform; what it gives as the initial value of a parameter is the standard
    deviation of the numbers that are drawn for it, in the default float type. hops: as in NetworkTerm.
    """
    transformed = hk.without_apply_rng(hk.transform(partial(bead_energies, facts)))

    def init(key: Array):
        two = jnp.zeros(2, jnp.int32)
        vectors = jnp.ones((2, 3), jnp.result_type(float))
        # compiled, so that nothing is left of the forward pass
        scales = jax.jit(transformed.init)(None, vectors, two, two, two, jnp.ones(2, bool))
        return _drawn(key, scales)

    def edge_energy(*arguments) -> Array:
        columns = transformed.apply(*arguments)
        return columns[:, 0] if facts.reference_K is None else columns

    return NetworkTerm("network", facts.cutoff_A, hops, init, edge_energy, facts.reference_K)


def at_excess(params: Params, excess: float) -> Params:
    """Parameters without conditioning that give U - excess · S of conditioned ones; excess is T/T₀ - 1.

    Exact, since U and S differ only in the matrices of the layers that make them.
    """
    fixed = {}
    for module, leaves in params.items():
        if not module.endswith(ENTROPY):
            slopes = params.get(module + ENTROPY)
            fixed[module] = (
                leaves if slopes is None else {name: leaves[name] - excess * slopes[name] for name in leaves}
            )
    return fixed


def _drawn(key: Array, scales: Params) -> Params:
    """Normal numbers with mean 0 and the given standard deviations, drawn at once: one small program."""
    leaves, tree = jax.tree.flatten(scales)
    cuts = np.cumsum([leaf.size for leaf in leaves])
    numbers = np.split(jax.random.normal(key, (int(cuts[-1]),), leaves[0].dtype), cuts[:-1])
    parts = [jnp.asarray(z.reshape(leaf.shape)) * leaf for z, leaf in zip(numbers, leaves, strict=True)]
    return jax.tree.unflatten(tree, parts)


def bessel(r: Float[Array, " edges"], cutoff_A: float, count: int) -> Float[Array, "edges count"]:
    """Radial basis sqrt(2/rc) sin(nπr/rc)/r for n = 1..count and r > 0, times rc/2 to be of order one.

    Gasteiger, Groß & Günnemann, ICLR 2020, eq. 7.
    """
    n = jnp.arange(1, count + 1, dtype=r.dtype)
    return jnp.sin(n * (jnp.pi / cutoff_A) * r[:, None]) * (cutoff_A / (math.sqrt(2.0) * r[:, None]))


def envelope(x: Float[Array, " edges"], p: int) -> Float[Array, " edges"]:
    """1 - (p+1)(p+2)/2 x^p + p(p+2) x^{p+1} - p(p+1)/2 x^{p+2}; 0 from x = 1 on (Gasteiger 2020, eq. 8).

    Value, slope and curvature vanish at x = 1.
    """
    inside = x < 1.0
    y = jnp.where(inside, x, 1.0)
    polynomial = (
        1.0 - 0.5 * (p + 1) * (p + 2) * y**p + p * (p + 2) * y ** (p + 1) - 0.5 * p * (p + 1) * y ** (p + 2)
    )
    return jnp.where(inside, polynomial, 0.0)


class Edges(NamedTuple):
    """r (e,) Å, half the cutoff where an edge does not act; envelope (e,), 0 there; acts (e,)."""

    r: Array
    envelope: Array
    acts: Array


def edges_of(
    vectors: Float[Array, "edges 3"], edge_mask: Bool[Array | np.ndarray, " edges"], cutoff_A: float, p: int
) -> Edges:
    """Lengths and envelopes. Masked edges, those beyond the cutoff and those of no length do not act."""
    r = geometry.safe_norm(vectors)
    acts = jnp.asarray(edge_mask) & (r < cutoff_A) & (r > 0.0)
    r = jnp.where(acts, r, 0.5 * cutoff_A)
    return Edges(r, jnp.where(acts, envelope(r / cutoff_A, p), 0.0), acts)


def has_edge(
    edges: Edges, senders: Int[Array | np.ndarray, " edges"], n_beads: Size
) -> Bool[Array, " beads"]:
    """Whether an edge of each bead acts."""
    return jax.ops.segment_sum(edges.acts.astype(jnp.int32), senders, n_beads) > 0


def silu(x: Array) -> Array:
    """x σ(x), with a gain that keeps unit mean square."""
    return SILU_GAIN * jax.nn.silu(x)


def linear(size: int, name: str, bias: bool, scale: float = 1.0) -> hk.Linear:
    """A linear layer (within hk.transform) whose weights start with deviation scale/sqrt(inputs)."""

    def fan_in(shape, dtype):
        return jnp.full(shape, scale / math.sqrt(shape[0]), dtype)

    return hk.Linear(size, with_bias=bias, w_init=fan_in, name=name)


def mlp(sizes: tuple[int, ...], name: str, final_scale: float = 1.0) -> Callable[[Array], Array]:
    """Linear layers with silu between them; the output is linear, scaled at the start by final_scale."""

    def apply(x: Array) -> Array:
        *hidden, last = sizes
        x = _activated(x, hidden, name)
        return linear(last, f"{name}_{len(hidden)}", bias=False, scale=final_scale)(x)

    return apply


def _activated(x: Array, hidden: Sequence[int], name: str) -> Array:
    """After linear layers of these sizes, each with a bias and silu."""
    for depth, size in enumerate(hidden):
        x = silu(linear(size, f"{name}_{depth}", bias=True)(x))
    return x


def readout(hidden: tuple[int, ...], name: str, facts: Any) -> Callable[[Array], Array]:
    """An MLP to energies (rows, 1), small at the start; conditioned on temperature to U and S, (rows, 2).

    S has a last matrix of its own, everything before it is that of U.
    """
    last = f"{name}_{len(hidden)}" if hidden else name
    names = [last] if facts.reference_K is None else [last, last + ENTROPY]

    def apply(x: Array) -> Array:
        x = _activated(x, hidden, name)
        return jnp.concatenate([linear(1, each, bias=False, scale=FINAL_SCALE)(x) for each in names], axis=1)

    return apply


def beyond_alone(
    energies: Float[Array, "rows columns"], species: Int[Array | np.ndarray, " beads"]
) -> Float[Array, "beads columns"]:
    """Energies of the beads less that of their species alone; the last N_SPECIES rows are beads alone."""
    n_beads = species.shape[0]
    return energies[:n_beads] - energies[n_beads:][jnp.asarray(species)]
