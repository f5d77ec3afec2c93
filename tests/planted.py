"""A chain of harmonic bonds, some of which break: their energy is flat beyond a length (or below it)."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from cgrefine.energy import BondedTerm, SumOfTerms
from cgrefine.system import topology_from_species

K, R0 = 60.0, 3.8


def _breaking(params, r, kind):
    """½ k (r - r0)², and constant beyond `above` and below `below`, each one number a bond type."""
    stop = jnp.clip(r, params["below"][kind], params["above"][kind])
    return 0.5 * params["k"] * (stop - R0) ** 2


MODEL = SumOfTerms((BondedTerm("bond", "bond", _breaking),))


def species(n: int) -> np.ndarray:
    """Residues such that each bond of a chain of n beads has a type of its own (n ≤ 20)."""
    return np.arange(n)


def params(n: int, broken: Mapping[int, float]) -> dict:
    """Parameters; broken: bond → length where it breaks, above or below 3.8 Å."""
    types = topology_from_species(species(n)).bond_types
    above, below = np.full(400, 1e3), np.full(400, 0.0)
    for bond, length in broken.items():
        (above if length > R0 else below)[types[bond]] = length
    return {"bond": {"k": np.asarray(K), "above": above, "below": below}}
