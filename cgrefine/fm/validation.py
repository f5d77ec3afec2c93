"""Force errors on the validation frames while a network is trained, over all devices."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from cgrefine import energy
from cgrefine.data.frames import FrameSet
from cgrefine.data.loader import Reading, each, sweep
from cgrefine.data.packing import Batch, Budget, slim
from cgrefine.energy import Fitted, Params, SumOfTerms
from cgrefine.fm import loss


class ForceErrors(NamedTuple):
    """Mean squared force-component error of network and prior, prior alone, and no model, (kcal/mol/Å)²."""

    model: float
    prior: float
    zero: float


def validator(
    network: Fitted, prior: SumOfTerms, frames: FrameSet, budget: Budget, reading: Reading
) -> Callable[[Params, Params], ForceErrors]:
    """measure(params, prior_params) -> ForceErrors over all the frames, compiled once.

    The frames are divided among processes, and batches go to the devices of a process in turn. Every bead
    counts the same; frames whose forces are not finite are left out. measure is a collective call.
    """
    share = (jax.process_index(), jax.process_count())
    batches = sweep(frames, budget, reading._replace(share=share))
    devices = jax.local_devices()

    @jax.jit
    def squares(params: Params, prior_params: Params, batch: Batch) -> Array:
        x, weight = jnp.asarray(batch.positions), jnp.asarray(batch.weight)
        residual = loss.residual_forces(prior, prior_params, batch)
        correction = energy.forces(network, params, x, batch.system, batch.neighbors)
        zero = jnp.zeros_like(x)
        pairs = ((correction, residual), (zero, residual), (zero, batch.target_forces))
        found = [loss.force_squares(f, target, weight) for f, target in pairs]
        return jnp.stack([*found, jnp.sum(weight)])

    def measure(params: Params, prior_params: Params) -> ForceErrors:
        held = [jax.device_put(_local((params, prior_params)), device) for device in devices]
        sums = np.zeros(4)
        waiting: list[Array] = []
        for index, (_, batch) in enumerate(each(batches)):
            there = index % len(devices)
            waiting.append(squares(*held[there], jax.device_put(slim(batch), devices[there])))
            if len(waiting) > len(devices):
                sums += np.asarray(waiting.pop(0), np.float64)
        for found in waiting:
            sums += np.asarray(found, np.float64)
        if jax.process_count() > 1:
            # float64 does not pass between processes as such
            sums = np.asarray(multihost_utils.process_allgather(sums.view(np.uint32))).view(np.float64).sum(0)
        return ForceErrors(*(sums[:3] / (3.0 * sums[3])).tolist())

    return measure


def _local(tree: Params) -> Params:
    """The copy of this process of arrays that are the same everywhere."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, tree)
