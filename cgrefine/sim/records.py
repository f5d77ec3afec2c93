"""Frames of an unfinished run on disk: one record of fixed size a frame, in one file for all replicas.

How many frames are good is known elsewhere (`rollout.Snapshot`), so a file that was cut in the middle of a
write is mended by its length alone; trajectories are made of it when the run is whole.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cgrefine.errors import InputError
from cgrefine.sim.rollout import Chunk

BLOCK_BYTES = 8 << 20
"""Read at a time: memory does not grow with the length of the run."""


def layout(n_beads: int, n_graphs: int, rounds: int = 1) -> np.dtype:
    """One frame: time_ps; wall seconds, and whether they hold a compilation; potential kcal/mol,
    temperature_K and alive of each graph; rung of each in each round of exchange; positions (n, 3) Å."""
    return np.dtype(
        [
            ("time_ps", "<f8"),
            ("seconds", "<f8"),
            ("compiled", "?"),
            ("potential", "<f4", (n_graphs,)),
            ("temperature_K", "<f4", (n_graphs,)),
            ("alive", "?", (n_graphs,)),
            ("rung", "<i2", (rounds, n_graphs)),
            ("positions", "<f4", (n_beads, 3)),
        ]
    )


def append(path: Path, kind: np.dtype, frames: int, chunk: Chunk, seconds: float, compiled: bool) -> None:
    """Write a chunk behind the first `frames` frames; whatever stood there is cut off first.

    seconds: wall time of each frame; compiled: with a compilation in it. Raises InputError when the file
    holds fewer frames than that.
    """
    records = np.zeros(len(chunk.time_ps), kind)
    for name in ("time_ps", "potential", "temperature_K", "alive", "rung", "positions"):
        records[name] = getattr(chunk, name)
    records["seconds"], records["compiled"] = seconds, compiled
    path.touch()
    require(path, kind, frames)
    with path.open("r+b") as handle:
        handle.truncate(frames * kind.itemsize)
        handle.seek(0, 2)
        handle.write(records.tobytes())


def require(path: Path, kind: np.dtype, frames: int) -> None:
    """Raise InputError when the file holds fewer frames than it should."""
    found = path.stat().st_size // kind.itemsize if path.exists() else 0
    if found < frames:
        raise InputError(
            f"{path}: holds {found} of {frames} frames of the unfinished simulation, the rest is lost; begin "
            "anew with --resume never"
        )


def blocks(path: Path, kind: np.dtype, frames: int, first: int = 0) -> Iterator[np.ndarray]:
    """The records from `first` up to `frames` in order, (s,) of the layout, some megabytes at a time."""
    size = max(1, BLOCK_BYTES // kind.itemsize)
    with path.open("rb") as handle:
        handle.seek(first * kind.itemsize)
        for at in range(first, frames, size):
            count = min(size, frames - at)
            yield np.frombuffer(handle.read(count * kind.itemsize), kind, count)
