"""Training snapshots on disk: whole or absent, the newest few kept (orbax-checkpoint), hashed."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cgrefine.errors import InputError

TREE, FACTS = "tree", "facts"


def snapshots(folder: Path, keep: int) -> ocp.CheckpointManager:
    """The folder's manager, which keeps the newest `keep`; a context manager that ends its writes."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.resolve(), options=options)


def put(manager: ocp.CheckpointManager, number: int, tree: Any, facts: Mapping[str, Any]) -> None:
    """Store a tree of numbers and arrays, and JSON-able facts, under a number that grows.

    A collective call when there are several processes, which all give the same.
    """
    arrays = jax.tree.map(np.asarray, tree)
    saved = ocp.args.Composite(
        **{
            TREE: ocp.args.StandardSave(arrays),
            FACTS: ocp.args.JsonSave({**facts, "sha256": _digest(arrays)}),
        }
    )
    manager.save(number, args=saved)


def newest(folder: Path, like: Callable[[dict[str, Any]], Any]) -> tuple[Any, dict[str, Any]] | None:
    """The last tree in the folder and its facts, or None. like(facts) gives the tree's structure, or None
    when the tree is not wanted.

    Raises InputError when the one found does not have this structure, or is not what was written.
    """
    if not folder.is_dir():
        return None
    with snapshots(folder, keep=1_000_000) as manager:
        number = manager.latest_step()
        if number is None:
            return None
        advice = f"remove {folder}/{number} to go on from the one before, or train with --resume never"
        try:
            facts = manager.restore(number, args=ocp.args.Composite(**{FACTS: ocp.args.JsonRestore()}))[FACTS]
            wanted = like(facts)
            if wanted is None:
                return None
            restored = ocp.args.StandardRestore(jax.tree.map(np.asarray, wanted))
            found = manager.restore(number, args=ocp.args.Composite(**{TREE: restored}))[TREE]
        except (ValueError, KeyError, OSError) as error:
            told = " ".join(str(error).split())[:300]
            raise InputError(f"{folder}/{number}: is no snapshot of this fit ({told}); {advice}") from error
    if _digest(jax.tree.map(np.asarray, found)) != facts.pop("sha256", None):
        raise InputError(f"{folder}/{number}: the snapshot is damaged, its hash differs; {advice}")
    return jax.tree.map(
        lambda kind, leaf: type(kind)(leaf) if _is_number(kind) else leaf, wanted, found
    ), facts


def _is_number(leaf: object) -> bool:
    return isinstance(leaf, int | float)


def _digest(tree: Any) -> str:
    """sha256 of all arrays, their shapes and types, in the order of the tree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(f"{leaf.dtype} {leaf.shape} ".encode() + np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
