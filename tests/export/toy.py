"""A small model with one term of each kind, for bundles and LAMMPS runs in tests."""

import jax
import jax.numpy as jnp
import numpy as np

from cgrefine.energy import BondedTerm, NetworkTerm, PairTerm, SumOfTerms
from cgrefine.export.verify import term_values
from cgrefine.fm.priors.classes import rows
from cgrefine.residues import species_from_sequence
from cgrefine.system import Topology, topology_from_species
from tests.chains import random_chain

SEQUENCE_BREAKS = (14,)
CIS_BEAD = 8
CUTOFF_A = 6.5
NETWORK_CUTOFF_A = 10.0


def topology(n: int = 24) -> Topology:
    """Two chains of seven species, every class of bond, angle and dihedral, charges; one bond is cis."""
    species = np.resize(species_from_sequence("AGVWPEKPGAVK"), n)
    return topology_from_species(species, breaks=SEQUENCE_BREAKS, cis=(CIS_BEAD,))


def chain(n: int) -> Topology:
    """One chain of n residues of the same species."""
    return topology_from_species(np.resize(species_from_sequence("AGVWPEKPGAVK"), n))


def frames(n: int = 24, count: int = 4) -> np.ndarray:
    """Frames (count, n, 3) Å: one random chain, its cis bond made short, perturbed."""
    rng = np.random.default_rng(3)
    chain = random_chain(n, seed=8)
    link = chain[CIS_BEAD] - chain[CIS_BEAD - 1]
    chain[CIS_BEAD:] -= link * (1.0 - 2.95 / np.linalg.norm(link))
    return chain + rng.normal(scale=0.1, size=(count, n, 3))


def _bond(params, r, kind):
    return 0.5 * params["k"] * (r - params["r0"][jnp.asarray(rows("bond", "class"))[kind]]) ** 2


def _angle(params, theta, kind):
    a = params["a"][jnp.asarray(rows("angle", "class"))[kind]]
    return a * jnp.cos(2.0 * theta) + 3.0 * jnp.sin(theta) + 10.0 * (jnp.cos(theta) + 0.2) ** 2


def _dihedral(params, phi, kind):
    n = jnp.arange(1, 4)
    phase, row = n * phi[..., None], jnp.asarray(rows("dihedral", "class"))[kind]
    return jnp.sum(params["cos"][row] * jnp.cos(phase) + params["sin"][row] * jnp.sin(phase), axis=-1)


def _repulsion(params, r, first, second):
    sigma = 0.5 * (params["sigma"][first] + params["sigma"][second])
    power, edge = (sigma / r) ** 12, (sigma / CUTOFF_A) ** 12
    shifted = power - edge + 12.0 * edge * (r - CUTOFF_A) / CUTOFF_A
    return jnp.where(r < CUTOFF_A, shifted, 0.0)


def _edge_energy(params, vectors, species, senders, receivers, edge_mask):
    """A density of neighbours, weighted by type and direction, through a small network: many-body."""
    squared = jnp.sum(vectors * vectors, axis=-1)
    r = jnp.sqrt(squared)
    inside = edge_mask & (r < NETWORK_CUTOFF_A)
    envelope = jnp.where(inside, (1.0 - squared / NETWORK_CUTOFF_A**2) ** 3, 0.0)
    radial = jnp.sin(r[:, None] * params["frequencies"]) * envelope[:, None]
    features = radial * params["embedding"][species[receivers]]
    n = species.shape[0]
    scalar = jax.ops.segment_sum(features, senders, n)
    directed = features[:, :, None] * (vectors / r[:, None])[:, None, :]
    vector = jax.ops.segment_sum(directed, senders, n)
    hidden = jax.nn.silu((scalar + jnp.sum(vector**2, axis=-1)) @ params["w1"] + params["embedding"][species])
    return hidden @ params["w2"]


def _network_params(key):
    keys = jax.random.split(key, 3)
    return {
        "frequencies": jnp.arange(1.0, 9.0) * jnp.pi / NETWORK_CUTOFF_A,
        "embedding": jax.random.normal(keys[0], (20, 8)),
        "w1": 0.3 * jax.random.normal(keys[1], (8, 8)),
        "w2": 0.5 * jax.random.normal(keys[2], (8,)),
    }


BOND = BondedTerm("bond", "bond", _bond)
ANGLE = BondedTerm("angle", "angle", _angle)
DIHEDRAL = BondedTerm("dihedral", "dihedral", _dihedral)
REPULSION = PairTerm("repulsion", CUTOFF_A, 3, _repulsion)
NETWORK = NetworkTerm("network", NETWORK_CUTOFF_A, 1, _network_params, _edge_energy)
MODEL = SumOfTerms((BOND, ANGLE, DIHEDRAL, REPULSION, NETWORK))
PRIORS = SumOfTerms(MODEL.terms[:4])


def params() -> dict:
    """Parameters of every term; the dihedral has sines, so that its mirror image has another energy."""
    rng = np.random.default_rng(1)
    return {
        "bond": {"k": 100.0, "r0": np.array([3.8, 3.7, 2.95])},
        "angle": {"a": rng.normal(size=5)},
        "dihedral": {"cos": rng.normal(size=(3, 3)), "sin": rng.normal(size=(3, 3))},
        "repulsion": {"sigma": np.linspace(3.6, 4.2, 20)},
        "network": jax.tree.map(np.asarray, _network_params(jax.random.key(5))),
    }


def reference(positions):
    """Float64 values of the network, (frames,) each."""
    return term_values(SumOfTerms((NETWORK,)), params(), topology(), positions)["network"]
