"""An ideal chain with a known energy, and the same with bonds that break: flat beyond (or below) a length."""

from collections.abc import Mapping
from functools import cached_property

import jax.numpy as jnp
import numpy as np

from cgrefine.energy import BondedTerm, PairTerm, SumOfTerms
from cgrefine.fm.forcefield import ForceField
from cgrefine.system import Topology, topology_from_species
from tests.chains import chain_from_internal

K, R0 = 60.0, 3.8
K_ANGLE, ANGLE = 40.0, 2.0
REPULSION, REACH_A = 20.0, 6.0


def _breaking(params, r, kind):
    """½ k (r - r0)², and constant beyond `above` and below `below`; all three for each bond type."""
    stop = jnp.clip(r, params["below"][kind], params["above"][kind])
    return 0.5 * params["k"][kind] * (stop - R0) ** 2


def _bent(params, theta, kind):
    return 0.5 * params["k"] * (theta - ANGLE) ** 2


def _apart(params, r, one, other):
    """a (1 - r²/rc²)³: zero from rc on with its first two derivatives."""
    return params["a"] * (1.0 - jnp.minimum(r / REACH_A, 1.0) ** 2) ** 3


MODEL = SumOfTerms(
    (
        BondedTerm("bond", "bond", _breaking),
        BondedTerm("angle", "angle", _bent),
        PairTerm("pair", REACH_A, 3, _apart),
    )
)


class Planted(ForceField):
    """A force field of these terms."""

    @cached_property
    def model(self):
        return MODEL


def topology(n: int) -> Topology:
    """A chain of n ≤ 14 different residues, none of them proline: each bond has a type of its own."""
    return topology_from_species(np.arange(n))


def params(n: int, broken: Mapping[int, float], soft: float = K) -> dict:
    """broken: bond → length where it breaks, above or below 3.8 Å; soft: the spring of these, kcal/mol/Å²."""
    types = topology(n).bond_types
    above, below, k = np.full(400, 1e3), np.full(400, 0.0), np.full(400, K)
    for bond, length in broken.items():
        (above if length > R0 else below)[types[bond]] = length
        k[types[bond]] = soft
    return {
        "bond": {"k": k, "above": above, "below": below},
        "angle": {"k": np.asarray(K_ANGLE)},
        "pair": {"a": np.asarray(REPULSION)},
    }


def force_field(n: int, broken: Mapping[int, float], soft: float = K) -> Planted:
    """The force field with these parameters."""
    return Planted({"network": None, "temperature_K": 300.0}, params(n, broken, soft))


def frames(n: int, count: int, kT: float, seed: int) -> np.ndarray:
    """Frames (count, n, 3) Å of bonds and angles at kT, torsions at random, repelled pairs above 5 Å."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while len(found) < count:
        x = chain_from_internal(
            rng.normal(R0, np.sqrt(kT / K), n - 1),
            rng.normal(ANGLE, np.sqrt(kT / K_ANGLE), n - 2),
            rng.uniform(-np.pi, np.pi, n - 3),
        )
        i, j = np.triu_indices(n, 3)
        if (np.linalg.norm(x[j] - x[i], axis=1) > 5.0).all():
            found.append(x)
    return np.stack(found)
