"""The force-matching loss: masked mean squared error of force components, (kcal/mol/Å)²."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine import energy
from cgrefine.data.packing import Batch
from cgrefine.energy import BeadEnergies, NetworkTerm, Params
from cgrefine.fm.priors.parameters import Scaling, mean_square


def force_mse(
    predicted: Float[Array, "beads 3"],
    target: Float[Array | np.ndarray, "beads 3"],
    weight: Float[Array | np.ndarray, " beads"],
) -> Float[Array, ""]:
    """Σ_i w_i |ΔF_i|² / (3 Σ_i w_i): squared error of a force component, averaged over beads.

    Rows of zero weight are left out whatever they hold; no weight at all gives 0.
    """
    total = jnp.sum(weight)
    return force_squares(predicted, target, weight) / (3.0 * jnp.where(total > 0, total, 1.0))


def force_squares(
    predicted: Float[Array, "beads 3"],
    target: Float[Array | np.ndarray, "beads 3"],
    weight: Float[Array | np.ndarray, " beads"],
) -> Float[Array, ""]:
    """Σ_i w_i |ΔF_i|², the sum that `force_mse` is the mean of; rows of zero weight are left out."""
    counted = jnp.asarray(weight) > 0
    difference = jnp.where(counted[:, None], predicted - target, 0.0)
    return jnp.sum(weight * jnp.sum(difference**2, axis=-1))


def residual_forces(prior: BeadEnergies, prior_params: Params, batch: Batch) -> Float[Array, "beads 3"]:
    """What the network is to learn, (n, 3) kcal/mol/Å: target minus prior forces, and zero on decoys.

    Taken from each batch rather than stored: the prior costs less than a percent of the network.
    """
    prior_forces = energy.forces(
        prior, prior_params, jnp.asarray(batch.positions), batch.system, batch.neighbors
    )
    return jnp.where(jnp.asarray(batch.decoy)[:, None], 0.0, batch.target_forces - prior_forces)


def matching_loss(
    network: NetworkTerm, params: Params, batch: Batch, residual: Float[Array, "beads 3"]
) -> Float[Array, ""]:
    """`force_mse` of the network's forces against the residual."""
    predicted = energy.forces(network, params, jnp.asarray(batch.positions), batch.system, batch.neighbors)
    return force_mse(predicted, residual, batch.weight)


def joint_loss(
    network: NetworkTerm,
    prior: BeadEnergies,
    scaling: Scaling,
    params: Params,
    prior_params: Params,
    batch: Batch,
    penalty: float,
) -> Float[Array, ""]:
    """`matching_loss` of network and priors together, and what holds the priors to their fit.

    params: "network", and "priors" as z of `scaling`, deviations from prior_params. The second part is
    penalty · mean z² times the mean square of the batch's target forces, as in `priors.refit`.
    """
    moved = scaling.params(prior_params, params["priors"])
    misfit = matching_loss(network, params["network"], batch, residual_forces(prior, moved, batch))
    target = jnp.asarray(batch.target_forces)
    unit = force_mse(jnp.zeros_like(target), target, batch.weight)
    return misfit + penalty * unit * mean_square(params["priors"])
