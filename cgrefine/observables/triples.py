"""The angular distribution function: angles between neighbours in space, not along the chain."""

import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid

from cgrefine import geometry
from cgrefine.observables.histogram import bins, mass
from cgrefine.observables.structure import Observable


def angular_distribution(
    n_beads: int, cutoff_A: float, width_deg: float, softness_A: float = 0.0, smear_deg: float = 0.0
) -> Observable:
    """Histogram of the angles j-i-k, degrees, over all beads i and pairs j < k within cutoff_A of i.

    A triple has the weight w(r_ij) w(r_ik) over the sum of all of them: w = 1 within the cutoff, or
    1/(1 + exp((r - cutoff_A)/softness_A)), which is smooth. A frame with no triple at all puts its mass into
    the first bin of overflow. All n(n-1)(n-2)/2 triples are looked at: for small systems.
    """
    grid = bins(0.0, 180.0, width_deg)
    j, k = np.triu_indices(n_beads, k=1)
    centre = np.repeat(np.arange(n_beads), len(j))
    triples = np.stack([np.tile(j, n_beads), centre, np.tile(k, n_beads)], axis=1)
    triples = triples[(triples[:, 0] != centre) & (triples[:, 2] != centre)].astype(np.int32)

    def near(r):
        if softness_A:
            return sigmoid((cutoff_A - r) / softness_A)
        return (r < cutoff_A).astype(r.dtype)

    def per_frame(x):
        weight = near(geometry.bond_lengths(x, triples[:, :2])) * near(
            geometry.bond_lengths(x, triples[:, 1:])
        )
        total = jnp.sum(weight)
        none = total == 0.0
        share = jnp.where(none, 0.0, weight / jnp.where(none, 1.0, total))
        found = mass(jnp.rad2deg(geometry.bond_angles(x, triples)), grid, smear_deg, share)
        return found.at[0].add(none.astype(found.dtype))

    return Observable("angle of neighbours", "°", (grid.size,), per_frame, grid)
