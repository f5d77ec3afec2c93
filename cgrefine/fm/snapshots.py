"""Training snapshots on disk: whole or absent, the newest few kept (orbax-checkpoint)."""

from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from cgrefine.errors import InputError
from cgrefine.fm.train import Snapshot

Stored = TypeVar("Stored")


def snapshots(folder: Path, keep: int) -> ocp.CheckpointManager:
    """The folder's manager, which keeps the newest `keep`; a context manager that ends its writes."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.resolve(), options=options)


def write(manager: ocp.CheckpointManager, snapshot: Snapshot) -> None:
    """Store a snapshot of training under its number of epochs."""
    put(manager, snapshot.epoch, snapshot)


def put(manager: ocp.CheckpointManager, step: int, snapshot: object) -> None:
    """Store a tree of numbers and arrays under a number that grows."""
    manager.save(step, args=ocp.args.StandardSave(jax.tree.map(np.asarray, snapshot)))


def newest(folder: Path, like: Stored) -> Stored | None:
    """The last snapshot in the folder, or None. `like` gives the structure: any snapshot of the same run.

    Raises InputError when the one found does not have this structure.
    """
    if not folder.is_dir():
        return None
    with snapshots(folder, keep=1) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        try:
            found = manager.restore(step, args=ocp.args.StandardRestore(jax.tree.map(np.asarray, like)))
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{folder}/{step}: is no snapshot of this model and optimiser ({error})"
            ) from error
    return jax.tree.map(lambda wanted, leaf: type(wanted)(leaf) if _is_number(wanted) else leaf, like, found)


def _is_number(leaf: object) -> bool:
    return isinstance(leaf, int | float)
