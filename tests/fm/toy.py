"""A teacher with a known potential: a harmonic prior, and a radial network of two Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np

from cgrefine import energy, neighbors, system
from cgrefine.data.store import in_memory
from cgrefine.energy import BondedTerm, NetworkTerm, SumOfTerms
from tests.chains import random_chain, random_topology

CUTOFF = 9.0
PRIOR = SumOfTerms((BondedTerm("bond", "bond", lambda p, r, kind: 0.5 * p * (r - 3.8) ** 2),))
PRIOR_PARAMS = {"bond": np.asarray(100.0)}
TEACHER = {"height": np.asarray([6.0, -3.0])}
CENTRES = (4.5, 6.5)


def edge_energy(params, vectors, species, senders, receivers, edge_mask):
    """Sum of Gaussians 1 Å wide in the distance, times (1 - r²/rc²)³, at the centre bead; heights (2,), or
    (2, 2) for two such sums."""
    r2 = jnp.sum(vectors**2, axis=-1)
    shape = jnp.exp(-0.5 * (jnp.sqrt(r2)[:, None] - jnp.asarray(CENTRES, r2.dtype)) ** 2)
    fade = jnp.where(edge_mask, jnp.maximum(1.0 - r2 / CUTOFF**2, 0.0), 0.0) ** 3
    faded = (shape @ params["height"]).T * fade
    return jax.ops.segment_sum(faded.T, senders, species.shape[0])


RADIAL = NetworkTerm("network", CUTOFF, 1, lambda key: {"height": jnp.zeros(2)}, edge_energy)


def domain(n, n_frames, seed, noise=0.0, validation=(), temperature_K=300.0, teacher=TEACHER, energies=False):
    """Random chains of n beads with the forces of prior and teacher, plus Gaussian noise, and their energies
    from an arbitrary origin."""
    topology = random_topology(n, seed)
    packed = system.pack([topology])
    model = SumOfTerms((*PRIOR.terms, RADIAL))
    params = {"bond": PRIOR_PARAMS["bond"], "network": teacher}
    chains = np.stack([random_chain(n, 100 * seed + k) for k in range(n_frames)]).astype(np.float32)
    compute = jax.jit(lambda x, listed: energy.bead_energies_and_forces(model, params, x, packed, listed))
    every = np.asarray([(i, j) for i in range(n) for j in range(n) if i != j], np.int32)
    listed = neighbors.padded(every[:, 0], every[:, 1], len(every))
    per_bead, forces = map(
        np.stack, zip(*(compute(jnp.asarray(x, jnp.float64), listed) for x in chains), strict=True)
    )
    forces = forces + noise * np.random.default_rng(seed).normal(size=forces.shape)
    held = np.zeros(n_frames, bool)
    held[list(validation)] = True
    arrays = {
        "positions": chains,
        "forces": forces,
        "temperature_K": np.full(n_frames, temperature_K),
        "replica": held,
        "frame": np.arange(n_frames),
        "validation": held,
    }
    if energies:
        arrays["energies"] = per_bead.sum(1) - 1e5
    return in_memory(f"toy{n}-{temperature_K:g}", topology, arrays)
