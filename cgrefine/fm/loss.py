"""The force-matching loss: weighted mean squared error of force components, (kcal/mol/Å)².

Over many batches it is the ratio of two sums, so that it is a mean over beads however these are packed:
each function for one batch gives `Sums`, and those of all batches are added before they are divided.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine import energy
from cgrefine.data.packing import Batch
from cgrefine.energy import BeadEnergies, Fitted, Params
from cgrefine.fm.priors.parameters import mean_square


class Sums(NamedTuple):
    """error (): of the weighted squared errors; components (): of the weights, three a bead."""

    error: Array
    components: Array

    @property
    def mean(self) -> Array:
        """error over components, 0 without any."""
        return self.error / jnp.where(self.components > 0, self.components, 1.0)


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
    return _residual(prior_forces, batch)


def _residual(prior_forces: Array, batch: Batch) -> Array:
    return jnp.where(jnp.asarray(batch.decoy)[:, None], 0.0, batch.target_forces - prior_forces)


def huber_squares(
    predicted: Float[Array, "beads 3"],
    target: Float[Array | np.ndarray, "beads 3"],
    weight: Float[Array | np.ndarray, " beads"],
    width: float,
) -> Float[Array, ""]:
    """Σ_i w_i h(|ΔF_i|) with h(d) = d² up to width (kcal/mol/Å) and 2 d width - width² beyond.

    Rows of zero weight are left out. Twice the function of Huber, Ann. Math. Stat. 35, 73 (1964), of the
    length of a bead's error, so that it does not depend on the axes.
    """
    counted = jnp.asarray(weight) > 0
    squares = jnp.sum(jnp.where(counted[:, None], predicted - target, 0.0) ** 2, axis=-1)
    far = squares > width**2
    length = jnp.sqrt(jnp.where(far, squares, width**2))
    return jnp.sum(weight * jnp.where(far, 2.0 * width * length - width**2, squares))


class Predicted(NamedTuple):
    """What a force field says of a batch. energies (n,): of beads, network and priors together, kcal/mol;

    forces (n, 3): of the network; residual (n, 3): what these are to be, see `residual_forces`; kcal/mol/Å.
    """

    energies: Array
    forces: Array
    residual: Array


def predicted(
    network: Fitted, prior: BeadEnergies, params: Params, prior_params: Params, batch: Batch
) -> Predicted:
    """Energies come with the forces: the gradient of a loss of both costs hardly more than that of forces."""
    at = (jnp.asarray(batch.positions), batch.system, batch.neighbors)
    own, forces = energy.bead_energies_and_forces(network, params, *at)
    fixed, prior_forces = energy.bead_energies_and_forces(prior, prior_params, *at)
    return Predicted(own + fixed, forces, _residual(prior_forces, batch))


def matching_squares(found: Predicted, batch: Batch, huber_width: float | None = None) -> Float[Array, ""]:
    """Of the network's forces against the residual: squares, or Huber's function."""
    weight = jnp.asarray(batch.weight)
    if huber_width is None:
        return force_squares(found.forces, found.residual, weight)
    return huber_squares(found.forces, found.residual, weight, huber_width)


def energy_squares(energies: Float[Array, " beads"], batch: Batch) -> Float[Array, ""]:
    """Σ_k m_k/(m_k - 1) Σ_{g in k} (d_g - d̄_k)², (kcal/mol)²: errors d of the energies of graphs.

    k are the gauges of the batch, and d̄_k the mean of the m_k graphs in it that have a target energy and a
    weight: the constant of each is not known, and the factor makes the mean of the sum what it would be if it
    were. A gauge with one graph adds nothing. Over the number of beads it is the squared error of the energy
    of a frame over its beads.
    """
    g = batch.system.graph_mask.shape[0]
    of_graphs = energy.graph_energies(energies, batch.system.graph_id, g)
    weight = energy.graph_energies(jnp.asarray(batch.weight), batch.system.graph_id, g)
    counted = jnp.isfinite(batch.target_energies) & (weight > 0.0)
    error = jnp.where(counted, of_graphs - jnp.where(counted, batch.target_energies, 0.0), 0.0)
    count = jax.ops.segment_sum(counted.astype(error.dtype), batch.gauge, g)
    mean = jax.ops.segment_sum(error, batch.gauge, g) / jnp.maximum(count, 1.0)
    apart = jnp.where(counted, error - mean[batch.gauge], 0.0)
    unbiased = count / jnp.maximum(count - 1.0, 1.0)
    return jnp.sum(unbiased[batch.gauge] * apart**2)


def restraint(z: Params, batch: Batch, penalty: float) -> Float[Array, ""]:
    """penalty · mean z² · Σ_i w_i |F_i|²: holds priors that are trained along to their fit.

    z: deviations from it in the units of a `Scaling`, as in `priors.refit`.
    """
    target = jnp.asarray(batch.target_forces)
    return penalty * mean_square(z) * force_squares(jnp.zeros_like(target), target, batch.weight)
