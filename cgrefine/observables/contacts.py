"""The contact map: how often each pair of residues is close."""

import jax.numpy as jnp

from cgrefine import geometry
from cgrefine.observables.pairs import separated_pairs
from cgrefine.observables.structure import Observable
from cgrefine.system import Topology


def contact_map(topology: Topology, contact_A: float, min_separation: int) -> Observable | None:
    """Probability of r < contact_A for each unique pair with |i-j| >= min_separation, (pairs,).

    Pairs are in the order of `separated_pairs`. None when the chain has no such pair.
    """
    pairs = separated_pairs(topology, min_separation)
    if not len(pairs):
        return None

    def per_frame(x):
        return (geometry.bond_lengths(x, pairs) < contact_A).astype(jnp.result_type(float))

    return Observable("contacts", "", (len(pairs),), per_frame)
