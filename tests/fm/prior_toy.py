"""Chains with the forces of priors that are known: facts made by hand, and one molecule after another."""

from functools import partial

import jax
import numpy as np

from cgrefine import energy, neighbors, system
from cgrefine.data.store import Domain, in_memory
from cgrefine.energy import SumOfTerms
from cgrefine.fm.priors.classes import labels
from cgrefine.fm.priors.terms import prior_terms
from tests.chains import random_chain, random_topology

BOND = {"name": "bond", "kind": "bond", "form": "harmonic", "classes": "type"}
ANGLE = {"name": "angle", "kind": "angle", "form": "harmonic", "classes": "global"}
DIHEDRAL = {"name": "dihedral", "kind": "dihedral", "form": "fourier", "classes": "global", "damping": None}
REPULSION = {
    "name": "repulsion", "kind": "pair", "form": "power", "epsilon": 1.0, "exponent": 12,
    "shift_order": 2, "cutoff_A": 6.5, "min_separation": 3, "max_separation": None,
}  # fmt: skip
FACTS = {"terms": [BOND, REPULSION]}
"""Of all twenty residues: 401 kinds of bond, of which three chains have about thirty."""


def _bonds(seed: int) -> dict[str, np.ndarray]:
    rng, rows = np.random.default_rng(seed), len(labels("bond", "type"))
    return {"k": rng.uniform(100.0, 200.0, rows), "x0": rng.uniform(3.75, 3.9, rows)}


TRUE = {
    "bond": _bonds(1),
    "angle": {"k": np.array([12.0]), "x0": np.array([1.9])},
    "dihedral": {"cos": np.array([[0.4, -0.2, 0.0]]), "sin": np.array([[-0.6, 0.1, 0.0]])},
    "repulsion": {"sigma": np.full((20, 20), 4.0)},
}
WRONG = {**TRUE, "bond": _bonds(2)}
T_K = 300.0


def prior_domain(
    n, n_frames, seed, facts=FACTS, noise: float | np.ndarray = 0.0, params=TRUE, temperature_K=T_K
) -> Domain:
    """Random chains, anywhere, with the forces of the priors plus Gaussian noise in kcal/mol/Å."""
    topology, rng = random_topology(n, seed), np.random.default_rng(seed)
    packed, model = system.pack([topology]), SumOfTerms(prior_terms(facts))
    chains = np.stack([random_chain(n, 1000 * seed + k) for k in range(n_frames)])
    chains = (chains + rng.normal(0.0, 10.0, (n_frames, 1, 3))).astype(np.float32)
    every = np.asarray([(i, j) for i in range(n) for j in range(n) if i != j], np.int32)
    listed = neighbors.padded(every[:, 0], every[:, 1], len(every))
    with jax.enable_x64(True):
        own = {term.name: params[term.name] for term in model.terms}
        forces = np.asarray(_forces(model, own, chains.astype(np.float64), packed, listed))
    forces = forces + noise * rng.normal(size=forces.shape)
    arrays = {
        "positions": chains,
        "forces": forces,
        "temperature_K": np.full(n_frames, temperature_K),
        "replica": np.zeros(n_frames, np.int64),
        "frame": np.arange(n_frames),
        "validation": np.zeros(n_frames, bool),
    }
    return in_memory(f"chain{seed}", topology, arrays)


@partial(jax.jit, static_argnums=0)
def _forces(model, params, chains, packed, listed):
    return jax.vmap(lambda x: energy.forces(model, params, x, packed, listed))(chains)
