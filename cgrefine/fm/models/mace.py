"""MACE: message passing with many-body messages, made of symmetric products at the beads.

Batatia, Kovács, Simm, Ortner & Csányi, NeurIPS 2022, section 4; the products are those of the atomic cluster
expansion (see `product_basis`). In layer t, for channel k and features h of degrees up to l_hidden,

    A_i,k l3 = Σ_j Σ_paths R_k,l1 l2 l3(r_ij) [(W h_j)_k,l1 ⊗ Y_l2(r_ij/r)] → l3,      then mixed over k,
    m_i,k L  = Σ_η W_{z_i},η k L  B_η,k L(A_i),                     B_η of 1 to `correlation` factors A,
    h'_i,L   = W_L m_i,L + W_{z_i},L h_i,L,                         z_i: the species of i,
    E_i     += readout_t(h'_i,0),                                   linear, in the last layer an MLP.

R is an MLP of the radial basis times the polynomial envelope u. Edges are summed into A before any product,
so the products run on beads. Sums over neighbours are divided by the square root of their mean number.

The energy of a bead is less that of a bead of its species without neighbours, for which A and m are zero: its
scalars are h' = W_z h, a table of species that needs no row of its own in any product. What is carried along
for each bead are the scalars less that table, exactly zero for a bead alone; the first layer has then no
self-connection to compute.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cgrefine.energy import NetworkTerm
from cgrefine.fm.models import layers
from cgrefine.fm.models import tensor_product as tp
from cgrefine.fm.models.layers import bessel, mlp, readout
from cgrefine.fm.models.product_basis import Chain, product_basis, products
from cgrefine.residues import N_SPECIES

STEP = 0.25
"""Initial scale of each further factor of a product: cubes of cubes have long tails otherwise."""


@dataclass(frozen=True)
class MACE:
    """Static facts of the network. avg_neighbors: mean number of edges of a bead in the training data.

    channels: of features and products; hidden: width of the MLPs; a bead feels others up to `layers` cutoffs
    away. l_max: degree of the spherical harmonics and of A; l_hidden: highest degree of the features that
    go from layer to layer, never above l_max. correlation: factors A of a product, so that a message
    depends on up to `correlation` neighbours at once. envelope_p: exponent of the envelope; energy, force
    and force gradient are continuous at cutoff_A. parity: "so3" tells mirror images apart with two layers
    or more, l_hidden above 0 and correlation above 1; "o3" cannot. reference_K: as in NetworkTerm.
    """

    cutoff_A: float
    avg_neighbors: float
    channels: int
    hidden: int
    layers: int
    l_max: int
    l_hidden: int
    correlation: int
    n_bessel: int
    envelope_p: int
    parity: tp.Parity
    reference_K: float | None = None


class _Graph(NamedTuple):
    """What the edges of every layer share. senders, receivers (e,), basis (e, n_bessel), envelope (e, 1)."""

    senders: Array | np.ndarray
    receivers: Array | np.ndarray
    harmonics: tp.Features
    basis: Array
    envelope: Array


def network(facts: MACE) -> NetworkTerm:
    """The energy term "network" of these facts."""
    return layers.network(_bead_energies, facts, hops=facts.layers)


def _bead_energies(
    facts: MACE,
    vectors: Float[Array, "edges 3"],
    species: Int[Array | np.ndarray, " beads"],
    senders: Int[Array | np.ndarray, " edges"],
    receivers: Int[Array | np.ndarray, " edges"],
    edge_mask: Bool[Array | np.ndarray, " edges"],
) -> Float[Array, "beads columns"]:
    """Energy of each bead in kcal/mol, see `layers.network`; 0 without neighbours."""
    n_beads, kinds = species.shape[0], jnp.asarray(species)
    edges = layers.edges_of(vectors, edge_mask, facts.cutoff_A, facts.envelope_p)
    harmonics = tp.spherical_harmonics(vectors / edges.r[:, None], facts.l_max)
    basis = bessel(edges.r, facts.cutoff_A, facts.n_bessel)
    graph = _Graph(senders, receivers, harmonics, basis, edges.envelope[:, None])

    # features are change + alone: `alone` is the table of beads without neighbours, scalars only
    alone = hk.get_parameter("embedding", (N_SPECIES, facts.channels), vectors.dtype, jnp.ones)
    change: tp.Features = ()
    energy = 0.0
    for layer in range(facts.layers):
        last = layer == facts.layers - 1
        top = 0 if last else min(facts.l_hidden, facts.l_max)
        chains = [
            product_basis(facts.l_max, degree, facts.correlation, facts.parity) for degree in range(top + 1)
        ]
        around = _around(facts, graph, _with(alone[kinds], change), chains, f"around_{layer}")
        messages = _messages(facts, kinds, around, chains, f"product_{layer}")
        change, alone = _updated(facts, kinds, messages, change, alone, f"update_{layer}")
        if last:
            both = jnp.concatenate([change[0][0] + alone[kinds], alone])
            read = layers.beyond_alone(readout((facts.hidden // 2 or 1,), "energy", facts)(both), kinds)
        else:
            read = readout((), f"readout_{layer}", facts)(change[0][0])
        energy = energy + read
    # the MLP of two equal rows need not be equal to the last bit
    return jnp.where(layers.has_edge(edges, senders, n_beads)[:, None], energy, 0.0)


def _with(scalars: Array, change: tp.Features) -> tp.Features:
    """Features of each bead: its scalars alone, and what its neighbours change."""
    return ((scalars + change[0][0],), *change[1:]) if change else ((scalars,),)


def _around(
    facts: MACE, graph: _Graph, features: tp.Features, chains: list[tuple[Chain, ...]], name: str
) -> dict[int, tp.Tensor]:
    """A by degree, (beads, channels) each: those degrees that the chains read."""
    channels, n_beads = facts.channels, features[0][0].shape[0]
    needed = {degree for made in chains for chain in made for degree in chain.degrees}
    paths = [
        path for path in tp.paths(facts.l_max, facts.parity) if path.l1 < len(features) and path.l3 in needed
    ]
    mixed = [_mixed(tensor, channels, f"{name}_sender_{degree}") for degree, tensor in enumerate(features)]
    heard = [tuple(component[graph.receivers] for component in tensor) for tensor in mixed]
    radial = mlp((facts.hidden, facts.hidden, len(paths) * channels), f"{name}_radial")(graph.basis)
    weights = jnp.split(radial * graph.envelope, len(paths), axis=1)
    summed = {}
    for degree in sorted(needed):
        parts = [
            [weight * component for component in tp.product(path, heard[path.l1], graph.harmonics[path.l2])]
            for path, weight in zip(paths, weights, strict=True)
            if path.l3 == degree
        ]
        norm = 1.0 / math.sqrt(facts.avg_neighbors * len(parts))
        tensor = tuple(
            jax.ops.segment_sum(sum(part[m] for part in parts), graph.senders, n_beads) * norm
            for m in range(2 * degree + 1)
        )
        summed[degree] = _mixed(tensor, channels, f"{name}_mix_{degree}")
    return summed


def _messages(
    facts: MACE, kinds: Array, around: dict[int, tp.Tensor], chains: list[tuple[Chain, ...]], name: str
) -> tp.Features:
    """m by degree: products of A, added up with weights of the species and channel."""
    messages, made = [], {}
    for degree, of_degree in enumerate(chains):
        orders = np.array([len(chain.degrees) for chain in of_degree])
        scales = np.repeat(STEP ** (orders - 1) * len(of_degree) ** -0.5, facts.channels)

        def spread(shape, dtype, scales=scales):
            return jnp.broadcast_to(jnp.asarray(scales, dtype), shape)

        table = hk.get_parameter(f"{name}_{degree}", (N_SPECIES, len(scales)), around[0][0].dtype, spread)
        weights = jnp.split(table[kinds], len(of_degree), axis=1)
        terms = list(zip(weights, products(of_degree, around, made), strict=True))
        messages.append(tuple(sum(w * b[m] for w, b in terms) for m in range(2 * degree + 1)))
    return tuple(messages)


def _updated(
    facts: MACE, kinds: Array, messages: tp.Features, change: tp.Features, alone: Array, name: str
) -> tuple[tp.Features, Array]:
    """(change, alone) after a layer: messages mixed over channels, plus self-connections by species."""
    channels = facts.channels
    updated = [_mixed(message, channels, f"{name}_{degree}") for degree, message in enumerate(messages)]
    for degree in range(min(len(messages), len(change) or 1)):
        shape = (N_SPECIES, channels, channels)
        own = hk.get_parameter(f"{name}_self_{degree}", shape, alone.dtype, jnp.ones) * channels**-0.5
        if change:
            kept = (_by_species(component, own, kinds) for component in change[degree])
            updated[degree] = tuple(new + old for new, old in zip(updated[degree], kept, strict=True))
        if degree == 0:
            alone = jnp.einsum("zc,zcd->zd", alone, own)
    return tuple(updated), alone


def _by_species(values: Array, matrices: Array, kinds: Array) -> Array:
    """Each row of values times the matrix of its species: (one-hot ⊗ values) times all matrices, stacked.

    No matrix is copied for a bead: a batch has more beads than there are entries in a row.
    """
    one_hot = jax.nn.one_hot(kinds, N_SPECIES, dtype=values.dtype)
    rows = (one_hot[:, :, None] * values[:, None, :]).reshape(values.shape[0], -1)
    return rows @ matrices.reshape(-1, matrices.shape[2])


def _mixed(tensor: tp.Tensor, channels: int, name: str) -> tp.Tensor:
    """One channel matrix for all components."""
    shape = (tensor[0].shape[1], channels)
    matrix = hk.get_parameter(name, shape, tensor[0].dtype, jnp.ones) * shape[0] ** -0.5
    return tuple(component @ matrix for component in tensor)
