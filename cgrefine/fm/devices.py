"""A line of devices, and what each of them holds: everything of parameters, a share of batches."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"
EVERYWHERE, SHARED = PartitionSpec(), PartitionSpec(AXIS)


def mesh_of(devices: Sequence[Any] | None = None) -> Mesh:
    """A line of devices, by default all of all processes, those of a process next to each other."""
    chosen = jax.devices() if devices is None else devices
    return Mesh(np.asarray(sorted(chosen, key=lambda d: (d.process_index, d.id))), (AXIS,))


def on_all(
    function: Callable[..., Any], mesh: Mesh, inputs: tuple[PartitionSpec, ...], outputs: Any
) -> Callable[..., Any]:
    """function(*arguments) on every device, on its share of those that are SHARED."""
    return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """A copy on each device of a tree that is the same in all processes; fit to be donated."""
    sharding = NamedSharding(mesh, EVERYWHERE)
    if jax.process_count() == 1:
        return jax.tree.map(lambda leaf: jax.device_put(np.array(leaf), sharding), tree)
    place = partial(jax.make_array_from_process_local_data, sharding)
    return jax.tree.map(lambda leaf: place(np.asarray(leaf), np.shape(leaf)), tree)


def shared_out(stacked: Any, mesh: Mesh) -> Any:
    """Arrays over the mesh from this process' part of them, shared along the first axis."""
    sharding, processes = NamedSharding(mesh, SHARED), jax.process_count()
    if processes == 1:
        return jax.device_put(stacked, sharding)
    place = partial(jax.make_array_from_process_local_data, sharding)
    return jax.tree.map(lambda leaf: place(leaf, (processes * leaf.shape[0], *leaf.shape[1:])), stacked)
