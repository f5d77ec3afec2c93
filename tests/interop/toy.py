"""A small protein and its force fields, for tests of other engines."""

import jax
import jax.numpy as jnp
import numpy as np

from cgrefine import energy, neighbors, system
from cgrefine.fm.forcefield import prior_only, with_network
from cgrefine.fm.models.registry import network_term
from cgrefine.residues import ONE_LETTER
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal, random_chain
from tests.fm.prior_toy import ANGLE, BOND, REPULSION, TRUE

N = 14
SPECIES = np.random.default_rng(3).integers(0, 20, N)
SEQUENCE = "".join(ONE_LETTER[s] for s in SPECIES)
TOPOLOGY = topology_from_species(SPECIES)
X = random_chain(N, 2)

PRIORS = {"terms": [BOND, ANGLE, REPULSION]}
SCHNET = {"name": "schnet", "cutoff_A": 10.0, "hidden": 4, "layers": 1, "n_bessel": 4, "envelope_p": 6}


def priors():
    """Springs, angles and repulsion of a chain that lives at 300 K."""
    return prior_only(PRIORS, TRUE, 300.0)


def springs():
    """Springs alone, quick to compile."""
    return prior_only({"terms": [BOND]}, TRUE, 300.0)


def with_schnet(**facts):
    """Springs and a network away from its small initial values."""
    described = {**SCHNET, "avg_neighbors": 8.0, **facts}
    fresh = network_term(described).init(jax.random.key(1))
    rng = np.random.default_rng(8)
    moved = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.3 * rng.normal(size=leaf.shape), fresh)
    return with_network(springs(), described, moved)


def own(force_field, x=X, topology=TOPOLOGY):
    """Energy (kcal/mol) and forces (kcal/mol/Å) by the package: all pairs, masked beyond the cutoff."""
    packed = system.pack([topology])
    i, j = neighbors.candidates(packed)
    near = np.linalg.norm(x[i] - x[j], axis=1) < force_field.model.cutoff_A
    listed = neighbors.Neighbors(i, j, near, np.asarray(False))
    bead, force = OWN(force_field.model, force_field.params, jnp.asarray(x), packed, listed)
    return float(bead.sum()), np.asarray(force)


OWN = jax.jit(energy.bead_energies_and_forces, static_argnums=0)


def strand(n=N):
    """An almost extended chain near the minimum of bonds and angles."""
    return chain_from_internal(np.full(n - 1, 3.82), np.full(n - 2, 1.9), np.full(n - 3, 2.6))
