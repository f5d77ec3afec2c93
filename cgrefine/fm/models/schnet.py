"""SchNet: message passing with scalars only, by continuous-filter convolutions.

Schütt, Kindermans, Sauceda, Chmiela, Tkatchenko & Müller, NeurIPS 2017. One interaction is

    Δs_i = MLP( Σ_j (A s_j) W(r_ij) ),      W(r) = (two-layer MLP of the radial basis) u(r),

A linear, u the polynomial envelope. Sums over neighbours are divided by the square root of their mean number,
the basis is that of Bessel functions. The energy of a bead is that of its scalars after the last layer, less
that of a bead of its species without neighbours. Distances cannot tell mirror images apart.
"""

import math
from dataclasses import dataclass

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cgrefine.energy import NetworkTerm
from cgrefine.fm.models import layers
from cgrefine.fm.models.layers import bessel, linear, mlp, readout
from cgrefine.residues import N_SPECIES


@dataclass(frozen=True)
class SchNet:
    """Static facts of the network: as in PaiNN."""

    cutoff_A: float
    avg_neighbors: float
    hidden: int
    layers: int
    n_bessel: int
    envelope_p: int
    reference_K: float | None = None


def network(facts: SchNet) -> NetworkTerm:
    """The energy term "network" of these facts."""
    return layers.network(_bead_energies, facts, hops=facts.layers)


def _bead_energies(
    facts: SchNet,
    vectors: Float[Array, "edges 3"],
    species: Int[Array | np.ndarray, " beads"],
    senders: Int[Array | np.ndarray, " edges"],
    receivers: Int[Array | np.ndarray, " edges"],
    edge_mask: Bool[Array | np.ndarray, " edges"],
) -> Float[Array, "beads columns"]:
    """Energy of each bead in kcal/mol, see `layers.network`; 0 without neighbours."""
    n_beads = species.shape[0]
    edges = layers.edges_of(vectors, edge_mask, facts.cutoff_A, facts.envelope_p)
    basis = bessel(edges.r, facts.cutoff_A, facts.n_bessel)
    # the last rows are beads of every species without neighbours
    kinds = jnp.concatenate([jnp.asarray(species), jnp.arange(N_SPECIES, dtype=jnp.int32)])
    s = hk.get_parameter("embedding", (N_SPECIES, facts.hidden), vectors.dtype, jnp.ones)[kinds]
    for layer in range(facts.layers):
        filters = mlp((facts.hidden, facts.hidden), f"filter_{layer}")(basis) * edges.envelope[:, None]
        messages = linear(facts.hidden, f"message_{layer}", bias=False)(s)[receivers] * filters
        heard = jax.ops.segment_sum(messages, senders, n_beads) * facts.avg_neighbors**-0.5
        around = jnp.pad(heard, ((0, N_SPECIES), (0, 0)))
        s = (s + mlp((facts.hidden, facts.hidden), f"update_{layer}")(around)) * math.sqrt(0.5)
    energy = layers.beyond_alone(readout((facts.hidden // 2 or 1,), "energy", facts)(s), species)
    return jnp.where(layers.has_edge(edges, senders, n_beads)[:, None], energy, 0.0)
