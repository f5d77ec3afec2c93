"""Contacts: how often each pair of residues is close, and the fraction of native contacts."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid
from jaxtyping import Array, Float

from cgrefine import geometry
from cgrefine.observables.pairs import separated_pairs
from cgrefine.observables.structure import Observable
from cgrefine.system import Topology


def contact_map(
    topology: Topology, contact_A: float, min_separation: int, softness_A: float = 0.0
) -> Observable | None:
    """Probability of r < contact_A for each unique pair with |i-j| >= min_separation, (pairs,).

    Pairs are in the order of `separated_pairs`. softness_A: instead of the step the smooth
    1/(1 + exp((r - contact_A)/softness_A)). None when the chain has no such pair.
    """
    pairs = separated_pairs(topology, min_separation)
    if not len(pairs):
        return None

    def per_frame(x):
        r = geometry.bond_lengths(x, pairs)
        if softness_A:
            return sigmoid((contact_A - r) / softness_A)
        return (r < contact_A).astype(jnp.result_type(float))

    return Observable("contacts", "", (len(pairs),), per_frame)


def native_contacts(
    topology: Topology,
    native: Float[np.ndarray, "beads 3"],
    contact_A: float,
    min_separation: int,
    steepness_per_A: float = 5.0,
    tolerance: float = 1.2,
) -> Callable[[Array], Array] | None:
    """Q(positions): the fraction of native contacts, smooth, in [0, 1]; None when `native` has no contact.

    Q = mean over native pairs of 1/(1 + exp(β (r - λ r₀))), r₀ < contact_A the distance in `native` and
    |i-j| >= min_separation; β = 5/Å as in Best, Hummer & Eaton, PNAS 110, 17874 (2013). They take
    λ = 1.8 for contacts of heavy atoms below 4.5 Å; λ = 1.2 leaves a Cα contact of 8 Å as much room.
    """
    pairs = separated_pairs(topology, min_separation)
    x = np.asarray(native, np.float64)
    r0 = np.linalg.norm(x[pairs[:, 1]] - x[pairs[:, 0]], axis=-1)
    pairs, r0 = pairs[r0 < contact_A], r0[r0 < contact_A]
    if not len(pairs):
        return None

    def fraction(positions):
        r = geometry.bond_lengths(positions, pairs)
        return jnp.mean(sigmoid(steepness_per_A * (tolerance * jnp.asarray(r0, r.dtype) - r)))

    return fraction
