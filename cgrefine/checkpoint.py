"""Trees of arrays on disk: one npz of named arrays, read without pickle, written atomically."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cgrefine.errors import InputError

SEPARATOR = "|"
"""Between the keys of a nested dict in array names; Haiku module names contain '/' and '~'."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dict of arrays → flat dict 'a|b|c' → array. Raises ValueError on a key with the separator."""
    flat: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        if SEPARATOR in key:
            raise ValueError(f"parameter name {key!r} contains {SEPARATOR!r}")
        name = f"{prefix}{SEPARATOR}{key}" if prefix else key
        if isinstance(value, Mapping):
            flat.update(flatten(value, name))
        else:
            flat[name] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(SEPARATOR)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def save_params(path: Path, params: Mapping[str, Any]) -> None:
    """Write a nested dict of arrays as npz, under a temporary name first."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as handle:
        np.savez(handle, **flatten(params))  # pyright: ignore[reportArgumentType]
    temporary.rename(path)


def load_params(path: Path) -> dict[str, Any]:
    """Read what `save_params` wrote. InputError when missing, damaged, or holding Python objects."""
    try:
        # opened here: np.load leaves a file open that is no archive
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return unflatten({name: archive[name] for name in archive.files})
    except OSError as error:
        raise InputError(f"{path}: parameters cannot be read ({error})") from error
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: not a parameter file, or it holds Python objects ({error})") from error


def named_leaves(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of any tree by their place in it ('progress/step'), as `save_params` takes them."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def refilled(like: Any, named: Mapping[str, np.ndarray]) -> Any:
    """Inverse of `named_leaves`: the tree of the structure, shapes and dtypes of `like`.

    Raises ValueError when a name, shape or dtype is not that of `like`.
    """
    leaves, structure = jax.tree.flatten_with_path(like)
    names = [_name(path) for path, _ in leaves]
    if set(names) != set(named):
        raise ValueError(f"the saved tree holds {sorted(named)}, {sorted(names)} are expected")
    for name, (_, leaf) in zip(names, leaves, strict=True):
        found, wanted = (tuple((*a.shape, np.dtype(a.dtype).name)) for a in (named[name], leaf))
        if found != wanted:
            raise ValueError(f"{name} of the saved tree is {found}, {wanted} is expected")
    return jax.tree.unflatten(structure, [named[name] for name in names])


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
