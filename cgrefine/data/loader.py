"""From the store to packed batches: a grain pipeline that reads, finds edges and packs in the background.

rows of the epoch → shuffled by (seed, epoch) → this process' share → frames with edges, a group at a time
(read threads) → packed batches (a thread of this process, or worker processes). Each iterator has get_state
and set_state (JSON-able): restored in the middle of an epoch it goes on with the same batches.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags
from grain.experimental import (
    DatasetOptions,
    ThreadPrefetchIterDataset,
    WithOptionsIterDataset,
    index_shuffle,
)

from cgrefine.data.frames import FrameSet, Rows
from cgrefine.data.packing import Batch, Budget, Item, make_batch, next_batch
from cgrefine.errors import InputError
from cgrefine.neighbors import frame_edges

READ_THREADS = 1
"""More of them wait for each other, since most of the work holds the interpreter lock: see workers."""

NO_SHARED_MEMORY = 1 << 62
"""Arrays below this many bytes go through a pipe: grain's shared memory was seen to lose a file descriptor
(OSError: Bad file descriptor) once in some thousand batches, and a pipe is fast enough. The price: workers
that are stopped in the middle of an epoch may hold a full pipe until grain ends them, after 25 s."""

READ_AHEAD = 8
"""Groups of frames that are read before they are asked for."""

GROUP = 16
"""Frames that are read together: an element of the pipeline costs a tenth of a millisecond by itself."""

SHUFFLE_ROUNDS = 4


class Decoys(NamedTuple):
    """Noisy copies of frames, on which the network is asked for no force.

    fraction: decoys for each frame of an epoch; noise_A: standard deviation per component; weight: of
    their beads in the loss, beside 1 for real ones.
    """

    fraction: float
    noise_A: float
    weight: float


NO_DECOYS = Decoys(0.0, 0.0, 0.0)


class Reading(NamedTuple):
    """How batches are made. buffer_frames: that wait for a place; prefetch: batches made ahead;

    workers: processes that make them, 0 for a thread of this one. share: (index, count) of this process
    among those that train together.
    """

    buffer_frames: int
    prefetch: int
    workers: int
    share: tuple[int, int] = (0, 1)


class Packed(NamedTuple):
    """A batch, and the row of the epoch that each graph is, -1 on padding; decoys follow the frames."""

    rows: np.ndarray
    batch: Batch


@dataclass(frozen=True, eq=False, repr=False)
class FrameSource:
    """The frames of one process' share of an epoch, in groups. Rows from len(rows) on are decoys.

    seeds: of the shuffle (None: none), of the frames that decoys copy, and of their noise.
    """

    frames: FrameSet
    rows: Rows
    decoys: Decoys
    seeds: tuple[int | None, int, int]
    share: tuple[int, int]

    @property
    def total(self) -> int:
        """Rows of the epoch, decoys included."""
        return len(self.rows) + round(self.decoys.fraction * len(self.rows))

    @property
    def places(self) -> range:
        """Of this share in the order of the epoch."""
        return range(self.share[0], self.total, self.share[1])

    def group(self, index: int) -> list[Item]:
        """The Items of the index-th GROUP places."""
        places, seed = self.places[index * GROUP : (index + 1) * GROUP], self.seeds[0]
        return [self.item(p if seed is None else _shuffled(p, self.total, seed)) for p in places]

    def item(self, row: int) -> Item:
        """A row, read and with its edges."""
        decoy = row - len(self.rows)
        source = row if decoy < 0 else _shuffled(decoy, len(self.rows), self.seeds[1])
        index, frame = self.rows.where(source)
        domain = self.frames.domains[index]
        x = domain.positions[frame]
        if decoy < 0:
            forces = domain.forces[frame]
        else:
            noise = np.random.default_rng([self.seeds[2], decoy]).normal(0.0, self.decoys.noise_A, x.shape)
            x, forces = (x + noise).astype(np.float32), np.zeros_like(x)
        senders, receivers = frame_edges(x, self.frames.cutoff_A)
        return Item(row, index, frame, x, forces, senders, receivers, decoy >= 0)

    def packed(self, items: list[Item], budget: Budget) -> Packed:
        """The batch of these items."""
        rows = np.full(budget.graphs, -1, np.int64)
        rows[: len(items)] = [item.row for item in items]
        topologies = [self.frames.domains[item.domain].topology for item in items]
        return Packed(rows, make_batch(items, topologies, budget, self.decoys.weight))


def training_batches(
    frames: FrameSet, budget: Budget, seed: int, epoch: int, decoys: Decoys, reading: Reading
) -> grain.IterDataset:
    """`Packed` batches of one epoch in an order that (seed, epoch) and `reading` decide.

    Its iterators are to be closed. They raise InputError on a frame that is larger than a batch.
    """
    seeds = [int(s) for s in np.random.SeedSequence([seed, epoch]).generate_state(3)]
    rows = frames.epoch(seed, epoch)
    source = FrameSource(frames, rows, decoys, (seeds[0], seeds[1], seeds[2]), reading.share)
    return _pipeline(source, budget, reading)


def sweep(frames: FrameSet, budget: Budget, reading: Reading) -> grain.IterDataset:
    """`Packed` batches with every frame once, always the same: for validation and evaluation."""
    source = FrameSource(frames, frames.each_once, NO_DECOYS, (None, 0, 0), reading.share)
    return _pipeline(source, budget, reading)


def each(batches: grain.IterDataset) -> Iterator[Packed]:
    """All batches; the pipeline is closed at the end."""
    with closing(iter(batches)) as running:
        yield from running


def _pipeline(source: FrameSource, budget: Budget, reading: Reading) -> grain.IterDataset:
    read = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=READ_AHEAD)
    groups = grain.MapDataset.range(-(-len(source.places) // GROUP)).map(source.group)
    packed = PackIterDataset(groups.to_iter_dataset(read), source, budget, reading.buffer_frames)
    if reading.workers == 0:
        return ThreadPrefetchIterDataset(packed, prefetch_buffer_size=reading.prefetch)
    if not flags.FLAGS.is_parsed():
        # grain asks absl for its flags when it starts workers, and this is no absl program
        flags.FLAGS.mark_as_parsed()
    ahead = max(reading.prefetch // reading.workers, 1)
    options = grain.MultiprocessingOptions(reading.workers, per_worker_buffer_size=ahead)
    if source.total == 0:
        return packed
    like = source.packed([source.item(0)], budget)
    piped = WithOptionsIterDataset(packed.map(as_bytes), DatasetOptions(min_shm_size=NO_SHARED_MEMORY))
    return piped.mp_prefetch(options).map(partial(from_bytes, like))


class PackIterDataset(grain.IterDataset):
    """Groups of items → Packed batches within a budget."""

    def __init__(
        self, parent: grain.IterDataset, source: FrameSource, budget: Budget, buffer_frames: int
    ) -> None:
        super().__init__(parent)
        self.source, self.budget, self.buffer_frames = source, budget, buffer_frames

    def __iter__(self) -> "PackIterator":
        return PackIterator(self._parent.__iter__(), self.source, self.budget, self.buffer_frames)


class PackIterator(grain.DatasetIterator):
    """State: that of the parent, and the rows that wait for a place, which are read again when restored."""

    def __init__(
        self, parent: grain.DatasetIterator, source: FrameSource, budget: Budget, buffer_frames: int
    ) -> None:
        super().__init__(parent)
        self.source, self.budget, self.buffer_frames = source, budget, buffer_frames
        self.waiting: deque[Item] = deque()

    def __next__(self) -> Packed:
        self._assert_not_closed()
        items = next_batch(self.waiting, self._more, self.budget, self.buffer_frames)
        if not items:
            raise StopIteration
        return self.source.packed(items, self.budget)

    def _more(self) -> list[Item]:
        items = next(self._parent, [])
        for item in items:
            if item.n_beads > self.budget.beads or item.n_edges > self.budget.edges:
                raise InputError(too_large(self.source.frames, item, self.budget))
        return items

    def get_state(self) -> dict[str, Any]:
        """The parent's state, and the waiting rows: as text, since states are copied after every batch."""
        rows = " ".join(str(item.row) for item in self.waiting)
        return {"parent": self._parent.get_state(), "waiting": rows}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of `get_state`."""
        self._parent.set_state(state["parent"])
        self.waiting = deque(self.source.item(int(row)) for row in state["waiting"].split())


def as_bytes(packed: Packed) -> np.ndarray:
    """All arrays of a batch in one, which passes between processes as one piece."""
    arrays = list(_leaves(packed))
    flat = np.empty(sum(_aligned(array.nbytes) for array in arrays), np.uint8)
    start = 0
    for array in arrays:
        flat[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        start += _aligned(array.nbytes)
    return flat


def from_bytes(like: Packed, flat: np.ndarray) -> Packed:
    """Inverse of `as_bytes`: views of `flat` with the shapes and types of `like`."""
    start = 0

    def rebuilt(value: Any) -> Any:
        nonlocal start
        if not isinstance(value, np.ndarray):
            return type(value)(*(rebuilt(part) for part in value))
        piece = flat[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
        start += _aligned(value.nbytes)
        return piece

    return rebuilt(like)


def _leaves(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    else:
        for part in value:
            yield from _leaves(part)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // 64) * 64


def too_large(frames: FrameSet, item: Item, budget: Budget) -> str:
    """The sentence for a frame that exceeds the budget alone."""
    domain = frames.domains[item.domain]
    n, e = item.n_beads, item.n_edges
    key = "train.batch_beads" if n > budget.beads else "train.batch_beads or loader.edge_headroom"
    kind = "a decoy of frame" if item.decoy else "frame"
    return (
        f"domain {domain.name}, {kind} {item.frame}: {n} beads and {e} edges do not fit a batch of "
        f"{budget.beads} beads and {budget.edges} edges; raise {key}"
    )


def _shuffled(index: int, count: int, seed: int) -> int:
    """A permutation of range(count), without a table."""
    return index_shuffle(index, max_index=count - 1, seed=seed, rounds=SHUFFLE_ROUNDS)
