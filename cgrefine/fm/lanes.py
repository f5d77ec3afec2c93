"""The packed batches of each update: lanes, streams of batches that never end, shared by the devices.

An update takes one batch from every lane. Lane k of n packs every n-th row of each epoch, whatever process
it runs in: a run goes on with the same batches on another number of devices or processes, as long as they
divide the number of lanes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from cgrefine.data.frames import FrameSet
from cgrefine.data.loader import ENDLESS, Reading, Recipe, training_batches
from cgrefine.data.packing import Budget, slim
from cgrefine.errors import InputError
from cgrefine.fm.devices import shared_out
from cgrefine.fm.step import Lanes


def n_lanes(asked: int | None, devices: int) -> int:
    """Batches an update: as asked, or one a device. Raises InputError when devices do not divide it."""
    count = devices if asked is None else asked
    if count % devices:
        raise InputError(
            f"train.batches_per_update = {count} cannot be shared by {devices} devices; allowed are "
            f"multiples of {devices}"
        )
    return count


class Streams:
    """The lanes of this process while they are open: see `opened`."""

    def __init__(self, running: Sequence, mesh: Mesh, stopping: Callable[[], bool]) -> None:
        self._running, self._mesh, self._stopping = running, mesh, stopping

    def next(self) -> Lanes:
        """One batch a lane, on the devices."""
        batches = [slim(next(lane).batch) for lane in self._running]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        stop = np.full(len(batches), self._stopping(), np.float32)
        return shared_out(Lanes(stacked, stop), self._mesh)

    def states(self) -> list[str]:
        """Where each lane of all processes is, as JSON; a collective call."""
        return _gathered([json.dumps(lane.get_state(), sort_keys=True) for lane in self._running])


@contextmanager
def opened(
    frames: FrameSet,
    budget: Budget,
    seed: int,
    recipe: Recipe,
    reading: Reading,
    count: int,
    mesh: Mesh,
    states: Sequence[str] | None,
    stopping: Callable[[], bool],
) -> Iterator[Streams]:
    """Open this process' share of `count` lanes, where `states` left them (None: at the beginning).

    stopping: whether this process asks for an end of training. Raises InputError when an epoch has fewer
    frames than there are lanes.
    """
    rows = len(frames.epoch(seed, 0))
    if rows < count:
        raise InputError(
            f"{rows} training frames cannot fill {count} batches an update; lower train.batches_per_update, "
            "or use fewer devices"
        )
    mine = _mine(count, mesh)
    with ExitStack() as stack:
        running = []
        for lane in mine:
            share = reading._replace(share=(lane, count))
            batches = training_batches(frames, budget, seed, 0, recipe, share, epochs=ENDLESS)
            running.append(stack.enter_context(closing(iter(batches))))
            if states is not None:
                running[-1].set_state(json.loads(states[lane]))
        yield Streams(running, mesh, stopping)


def _mine(count: int, mesh: Mesh) -> range:
    """Lanes of this process: those of its devices, which follow one another along the mesh."""
    first = next(k for k, d in enumerate(mesh.devices.flatten()) if d.process_index == jax.process_index())
    each = count // mesh.size
    return range(first * each, (first + len(mesh.local_devices)) * each)


def _gathered(texts: list[str]) -> list[str]:
    """The texts of all processes, in their order; each process has as many."""
    if jax.process_count() == 1:
        return texts
    pieces = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    lengths = multihost_utils.process_allgather(np.array([len(piece) for piece in pieces]))
    padded = np.zeros((len(texts), int(lengths.max())), np.uint8)
    for row, piece in zip(padded, pieces, strict=True):
        row[: len(piece)] = piece
    everyone = np.asarray(multihost_utils.process_allgather(padded)).reshape(-1, padded.shape[1])
    return [row[:n].tobytes().decode() for row, n in zip(everyone, lengths.reshape(-1), strict=True)]
