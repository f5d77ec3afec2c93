"""A refinement on disk while it runs: one file that holds its state and log, whole or as it was before."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cgrefine import checkpoint
from cgrefine.boltzmann.refine import Kept, Refinement, State
from cgrefine.errors import InputError

FORMAT = 1
TEXT, ARRAYS = "log", "state"


def save(path: Path, state: State, log: list[dict[str, Any]], fingerprint: str) -> None:
    """Write the state, the log so far and whose work it is, under a temporary name first."""
    facts = {"format": FORMAT, "fingerprint": fingerprint, "kept": len(state.kept), "log": log}
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    checkpoint.save_params(path, {TEXT: text, ARRAYS: checkpoint.named_leaves(state)})


def found(path: Path, refinement: Refinement, fingerprint: str) -> tuple[State, list[dict[str, Any]]] | None:
    """The state and log of this work; None when there is none, or it is of other work.

    Raises InputError when the file is damaged.
    """
    if not path.exists():
        return None
    advice = "begin anew with --resume never"
    try:
        content = checkpoint.load_params(path)
        facts = json.loads(content[TEXT].tobytes().decode())
    except (InputError, KeyError, ValueError) as error:
        raise InputError(f"{path}: is no state of a refinement ({error}); {advice}") from error
    if facts.get("format") != FORMAT or facts.get("fingerprint") != fingerprint:
        return None
    try:
        state = checkpoint.refilled(_like(refinement, facts["kept"]), content[ARRAYS])
    except ValueError as error:
        raise InputError(f"{path}: is not of this refinement ({error}); {advice}") from error
    return state, facts["log"]


def _like(refinement: Refinement, kept: int) -> State:
    """The structure, shapes and dtypes of a state with so many windows kept."""
    state = refinement.init()
    window = refinement.simulator.empty()
    one = Kept(jax.tree.map(np.zeros_like, state.fit.params), window)
    return state._replace(kept=(one,) * kept)
