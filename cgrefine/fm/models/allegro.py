"""Allegro: a strictly local equivariant network on the directed edges of a coarse-grained graph.

Musaelian, Batzner, Johansson, Sun, Owen, Kornbluth & Kozinsky, Nat. Commun. 14, 579 (2023). Symbols:
x is the scalar latent x^{ij,L} of edge i→j, V its tensor features V^{ij,L}, u(r) the polynomial
envelope, A the embedded environment of centre i. The products V ⊗ A of all paths into one degree l are
mixed by one matrix W_l, in the paper's form or in a cheaper one (`JOINED`):

    concatenated   V'_{lm,c} = Σ_{p,c'} W_l[(p,c'), c] (V ⊗ A)_{p,lm,c'}     (p over the paths into l)
    channelwise    V'_{lm,c} = Σ_{c'} W_l[c', c] Σ_p (V ⊗ A)_{p,lm,c'}

In the second a path has no weights of its own: w_{l1,c} of V and w_{l2,c} of A already weight each path
and channel. Weights after the product cost a sum over edges for each of them in the second derivative.
The last layer makes scalars only, since nothing reads its tensors.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Literal

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cgrefine.energy import NetworkTerm
from cgrefine.fm.models import layers
from cgrefine.fm.models import tensor_product as tp
from cgrefine.fm.models.layers import bessel, linear, mlp, readout, silu
from cgrefine.residues import N_SPECIES

Products = Literal["channelwise", "concatenated"]

JOINED: Mapping[Products, Callable[[list[Array]], Array]] = {
    "channelwise": lambda parts: reduce(add, parts),
    "concatenated": lambda parts: jnp.concatenate(parts, axis=1),
}
"""One component of all paths into a degree, each (edges, channels), as the input of the mixing matrix."""


@dataclass(frozen=True)
class Allegro:
    """Static facts of the network. avg_neighbors: mean number of edges of a bead in the training data.

    envelope_p: exponent of the envelope; energy, force and force gradient vanish at cutoff_A.
    parity: "so3" tells mirror images apart (with two layers or more), "o3" cannot.
    products: see JOINED. species_pair: the energy of an edge is scaled by a parameter of its two species,
    σ_{Z_i,Z_j} of the paper. reference_K: as in NetworkTerm.
    """

    cutoff_A: float
    avg_neighbors: float
    channels: int
    hidden: int
    layers: int
    l_max: int
    n_bessel: int
    envelope_p: int
    parity: tp.Parity
    products: Products
    species_pair: bool
    reference_K: float | None = None


def network(facts: Allegro) -> NetworkTerm:
    """The energy term "network" of these facts."""
    return layers.network(_bead_energies, facts, hops=1)


def _bead_energies(
    facts: Allegro,
    vectors: Float[Array, "edges 3"],
    species: Int[Array | np.ndarray, " beads"],
    senders: Int[Array | np.ndarray, " edges"],
    receivers: Int[Array | np.ndarray, " edges"],
    edge_mask: Bool[Array | np.ndarray, " edges"],
) -> Float[Array, "beads columns"]:
    """Energy of each bead in kcal/mol, see `layers.network`: Σ E_ij over the edges that it is centre of."""
    edges = layers.edges_of(vectors, edge_mask, facts.cutoff_A, facts.envelope_p)
    r, u = edges.r, edges.envelope[:, None]
    harmonics = tp.spherical_harmonics(vectors / r[:, None], facts.l_max)
    centre, neighbour = jnp.asarray(species)[senders], jnp.asarray(species)[receivers]
    sum_to_centre = partial(_centre_sum, senders=senders, n_beads=species.shape[0], facts=facts)

    x = u * _two_body(facts, bessel(r, facts.cutoff_A, facts.n_bessel), centre, neighbour)
    tensors = _weighted(facts, x, harmonics, "tensor")
    for layer in range(facts.layers):
        last = layer == facts.layers - 1
        around = sum_to_centre(_weighted(facts, x, harmonics, f"environment_{layer}"))
        scalars, tensors = _tensor_layer(facts, tensors, around, last, f"product_{layer}")
        update = mlp((facts.hidden, facts.hidden), f"latent_{layer}")(jnp.concatenate([x, scalars], axis=1))
        x = (x + u * update) * math.sqrt(0.5)
    energy = u * readout((facts.hidden // 2 or 1,), "energy", facts)(x)
    if facts.species_pair:
        scale = hk.get_parameter("pair_scale", (N_SPECIES, N_SPECIES), vectors.dtype, jnp.zeros)
        energy = (1.0 + scale[centre, neighbour])[:, None] * energy
    return jax.ops.segment_sum(energy, senders, species.shape[0]) * _per_neighbour(facts)


def _two_body(facts: Allegro, basis: Array, centre: Array, neighbour: Array) -> Array:
    """x^{ij,0} before the envelope: an MLP of the distance and both species, (edges, hidden).

    The one-hot part of its first layer is a table for each end, looked up.
    """
    tables = [
        hk.get_parameter(f"{end}_embedding", (N_SPECIES, facts.hidden), basis.dtype, jnp.ones)
        for end in ("centre", "neighbour")
    ]
    radial = linear(facts.hidden, "radial", bias=True)(basis)
    first = (radial + tables[0][centre] + tables[1][neighbour]) * math.sqrt(1 / 3)
    return mlp((facts.hidden, facts.hidden), "two_body")(silu(first))


def _weighted(facts: Allegro, x: Array, harmonics: tp.Features, name: str) -> tp.Features:
    """w_l(x) Y_l: the spherical harmonics of each edge in `channels` copies weighted by its scalars.

    Without a bias, so the weights vanish with x at the cutoff.
    """
    weights = linear((facts.l_max + 1) * facts.channels, name, bias=False)(x)
    by_degree = jnp.split(weights, facts.l_max + 1, axis=1)
    return tuple(tuple(w * y for y in tensor) for w, tensor in zip(by_degree, harmonics, strict=True))


def _centre_sum(
    features: tp.Features, senders: Array | np.ndarray, n_beads: layers.Size, facts: Allegro
) -> tp.Features:
    """A: features summed over the edges of each centre, given back to each of its edges."""
    norm = _per_neighbour(facts)
    return tuple(
        tuple((jax.ops.segment_sum(c, senders, n_beads) * norm)[senders] for c in tensor)
        for tensor in features
    )


def _tensor_layer(
    facts: Allegro, tensors: tp.Features, around: tp.Features, last: bool, name: str
) -> tuple[Array, tp.Features]:
    """V ⊗ A: (scalars of every path, for the latent MLP; mixed tensors, none in the last layer)."""
    made: dict[int, list[tp.Tensor]] = {}
    for path in tp.paths(facts.l_max, facts.parity, l_out=0 if last else facts.l_max):
        made.setdefault(path.l3, []).append(tp.product(path, tensors[path.l1], around[path.l2]))
    scalars = jnp.concatenate([scalar for (scalar,) in made[0]], axis=1)
    if last:
        return scalars, ()
    return scalars, tuple(_mixed(facts, made[d], f"{name}_mix_{d}") for d in sorted(made))


def _mixed(facts: Allegro, parts: list[tp.Tensor], name: str) -> tp.Tensor:
    """Tensors of one degree, one for each path into it, mixed to `channels` of them."""
    joined = [JOINED[facts.products](list(component)) for component in zip(*parts, strict=True)]
    shape = joined[0].shape[1], facts.channels
    matrix = hk.get_parameter(name, shape, joined[0].dtype, jnp.ones)
    matrix = matrix * (facts.channels * len(parts)) ** -0.5
    return tuple(component @ matrix for component in joined)


def _per_neighbour(facts: Allegro) -> float:
    return float(facts.avg_neighbors) ** -0.5
