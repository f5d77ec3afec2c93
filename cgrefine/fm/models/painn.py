"""PaiNN: message passing with scalars s and vectors v of each bead.

Schütt, Unke & Gastegger, ICML 2021. With x_j = φ(s_j), φ a two-layer MLP with three outputs a channel,
and filters W(r) = (linear in the radial basis) u(r), u the polynomial envelope, one message step is

    Δs_i = Σ_j (x W)ˢ_ij,      Δv_i = Σ_j [ (x W)ᵃ_ij v_j + (x W)ᵇ_ij r_ij/r ]            (eqs. 7, 8)

and one update, with U and V linear maps of channels and a = MLP(s, |V v|), is

    Δv = aᵛ U v,               Δs = aˢ + aᵐ (U v)·(V v).                                    (eqs. 9, 10)

Sums over neighbours are divided by the square root of their mean number. The energy of a bead is that of
its scalars after the last layer, less that of a bead of its species without neighbours: a bead alone has
none. Vectors are component-major: three arrays (beads, hidden). Scalars cannot tell mirror images apart.
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

NORM_FLOOR = 1.0e-8
"""Added to |V v|² below the root, whose slope at 0 is not finite."""

STEP = 0.4
"""Initial scale of messages and gates, whose products grow quickly from layer to layer otherwise."""

Vectors = tuple[Array, Array, Array]


@dataclass(frozen=True)
class PaiNN:
    """Static facts of the network. avg_neighbors: mean number of edges of a bead in the training data.

    hidden: channels of scalars and of vectors; a bead feels others up to `layers` cutoffs away. envelope_p:
    exponent of the envelope; energy, force and force gradient are continuous at cutoff_A. reference_K: as in
    NetworkTerm.
    """

    cutoff_A: float
    avg_neighbors: float
    hidden: int
    layers: int
    n_bessel: int
    envelope_p: int
    reference_K: float | None = None


def network(facts: PaiNN) -> NetworkTerm:
    """The energy term "network" of these facts."""
    return layers.network(_bead_energies, facts, hops=facts.layers)


def _bead_energies(
    facts: PaiNN,
    vectors: Float[Array, "edges 3"],
    species: Int[Array | np.ndarray, " beads"],
    senders: Int[Array | np.ndarray, " edges"],
    receivers: Int[Array | np.ndarray, " edges"],
    edge_mask: Bool[Array | np.ndarray, " edges"],
) -> Float[Array, "beads columns"]:
    """Energy of each bead in kcal/mol, see `layers.network`; 0 without neighbours."""
    n_beads = species.shape[0]
    edges = layers.edges_of(vectors, edge_mask, facts.cutoff_A, facts.envelope_p)
    direction = [(vectors[:, c] / edges.r)[:, None] for c in range(3)]
    basis = bessel(edges.r, facts.cutoff_A, facts.n_bessel)

    def summed(values: Array) -> Array:
        return jax.ops.segment_sum(values, senders, n_beads) * facts.avg_neighbors**-0.5

    # the last rows are beads of every species without neighbours
    kinds = jnp.concatenate([jnp.asarray(species), jnp.arange(N_SPECIES, dtype=jnp.int32)])
    s = hk.get_parameter("embedding", (N_SPECIES, facts.hidden), vectors.dtype, jnp.ones)[kinds]
    zero = jnp.zeros_like(s)
    v: Vectors = (zero, zero, zero)
    for layer in range(facts.layers):
        phi = mlp((facts.hidden, 3 * facts.hidden), f"message_{layer}", final_scale=STEP)(s)[receivers]
        filters = linear(3 * facts.hidden, f"filter_{layer}", bias=False)(basis) * edges.envelope[:, None]
        for_scalar, for_vector, for_direction = jnp.split(phi * filters, 3, axis=1)
        heard = [
            summed(for_vector * component[receivers] + for_direction * along)
            for component, along in zip(v, direction, strict=True)
        ]
        s = s + _with_alone(summed(for_scalar))
        x, y, z = (old + _with_alone(new) for old, new in zip(v, heard, strict=True))
        s, v = _updated(facts, s, (x, y, z), layer)
    energy = layers.beyond_alone(readout((facts.hidden // 2 or 1,), "energy", facts)(s), species)
    return jnp.where(layers.has_edge(edges, senders, n_beads)[:, None], energy, 0.0)


def _updated(facts: PaiNN, s: Array, v: Vectors, layer: int) -> tuple[Array, Vectors]:
    """Scalars and vectors of each bead mixed with each other."""
    mixing = linear(2 * facts.hidden, f"vector_mix_{layer}", bias=False)
    parts = [jnp.split(mixing(component), 2, axis=1) for component in v]
    inner = sum(u * w for u, w in parts)
    length = jnp.sqrt(sum(w * w for _, w in parts) + NORM_FLOOR)
    gate = mlp((facts.hidden, 3 * facts.hidden), f"update_{layer}", final_scale=STEP)
    gates = gate(jnp.concatenate([s, length], axis=1))
    for_vector, for_scalar, for_inner = jnp.split(gates, 3, axis=1)
    s = (s + for_scalar + for_inner * inner * facts.hidden**-0.5) * math.sqrt(0.5)
    x, y, z = (old + for_vector * u for old, (u, _) in zip(v, parts, strict=True))
    return s, (x, y, z)


def _with_alone(values: Array) -> Array:
    """Rows of zeros for the beads without neighbours."""
    return jnp.pad(values, ((0, N_SPECIES), (0, 0)))
