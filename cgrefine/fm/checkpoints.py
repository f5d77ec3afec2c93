"""Snapshots of training on disk: written, found again, and refused when they are of other work."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from cgrefine.config.training import Train
from cgrefine.fm import snapshots
from cgrefine.fm.train import EpochLog, Progress, Snapshot, Task, like
from cgrefine.fm.validation import ForceErrors

FORMAT = 1


def write(manager: ocp.CheckpointManager, snapshot: Snapshot, fingerprint: str) -> None:
    """Store a snapshot under its number of updates. fingerprint: of the work, see `found`."""
    facts = {"format": FORMAT, "fingerprint": fingerprint, "progress": as_json(snapshot.progress)}
    tree = (snapshot.state, snapshot.best)
    snapshots.put(manager, int(snapshot.state.updates), tree, facts)


def found(folder: Path, task: Task, settings: Train, fingerprint: str) -> Snapshot | None:
    """The newest snapshot of this work in the folder; None when there is none, or it is of other work.

    Raises InputError when it is damaged, or of another model in spite of its fingerprint.
    """

    def wanted(facts: dict[str, Any]) -> Any:
        if facts.get("format") != FORMAT or facts.get("fingerprint") != fingerprint:
            return None
        return like(task, settings, from_json(facts["progress"]))

    kept = snapshots.newest(folder, like=wanted)
    if kept is None:
        return None
    (state, best), facts = kept
    return Snapshot(from_json(facts["progress"]), state, best)


def as_json(progress: Progress) -> dict[str, Any]:
    """Of plain numbers and texts; floats survive to the last bit."""
    log = [{**entry._asdict(), "validation": entry.validation._asdict()} for entry in progress.log]
    return {**progress._asdict(), "lanes": list(progress.lanes), "log": log}


def from_json(content: dict[str, Any]) -> Progress:
    """Inverse of `as_json`."""
    log = [EpochLog(**{**row, "validation": ForceErrors(**row["validation"])}) for row in content["log"]]
    return Progress(**{**content, "lanes": tuple(content["lanes"]), "log": tuple(log)})
