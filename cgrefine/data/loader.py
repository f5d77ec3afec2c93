"""From the store to packed batches: a grain pipeline that reads, finds edges and packs in the background.

rows of the epochs → shuffled by (seed, epoch) → one share of them → frames with edges, a group at a time
(read threads) → packed batches (a thread of this process, or worker processes). Each iterator has get_state
and set_state (JSON-able): restored anywhere it goes on with the same batches.
"""

import math
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
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

from cgrefine import units
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


class Noising(NamedTuple):
    """Frames moved by Gaussian noise, with forces whose mean is that of the density so smeared.

    With x' = x + σε, kT ∇ln p_σ(x') = E[F(x)|x'] = E[-kT ε/σ|x']: the force at x' is force_share of the
    first and the rest of the second (Durumeric, Chen, Noé & Clementi, arXiv:2407.01286). noise_A: σ per
    component.
    """

    noise_A: float
    force_share: float


class Weighting(NamedTuple):
    """Weights of the loss. residue (20,) by species; piece (p,) by stretch of frames (`FrameSet.pieces`)."""

    residue: np.ndarray
    piece: np.ndarray


class Recipe(NamedTuple):
    """What is made of the frames of an epoch: decoys besides them, noise on them, weights of their beads."""

    decoys: Decoys = NO_DECOYS
    noising: Noising | None = None
    weighting: Weighting | None = None


AS_THEY_ARE = Recipe()


class Reading(NamedTuple):
    """How batches are made. buffer_frames: that wait for a place; prefetch: batches made ahead;

    workers: processes that make them, 0 for a thread of this one. share: (index, count) of these batches
    among those that divide an epoch.
    """

    buffer_frames: int
    prefetch: int
    workers: int
    share: tuple[int, int] = (0, 1)


class Packed(NamedTuple):
    """A batch, and the row that each graph is, -1 on padding: see FrameSource."""

    rows: np.ndarray
    batch: Batch


class Order(NamedTuple):
    """One epoch. rows: of its frames; total: decoys included, which follow them.

    seeds: of the shuffle (None: none), of the frames that decoys copy, and of noise.
    """

    rows: Rows
    total: int
    seeds: tuple[int | None, int, int]


@dataclass(frozen=True, eq=False, repr=False)
class FrameSource:
    """The frames of one share of `epochs` epochs from `first` on, in groups. seed None: as they are stored.

    A row counts through the epochs: row r of the e-th of them is e · most_rows + r. A frame with a force that
    is not finite has weight 0. Raises InputError on a position that is not.
    """

    frames: FrameSet
    seed: int | None
    first: int
    epochs: int
    recipe: Recipe
    share: tuple[int, int]

    @cached_property
    def most_rows(self) -> int:
        """Of an epoch: temperature weights make the number differ by a few."""
        pieces = self.frames.pieces
        most = int(np.ceil(pieces.count * pieces.weight).sum())
        most = max(most, len(self.frames))
        return most + round(self.recipe.decoys.fraction * most)

    @property
    def groups(self) -> int:
        """Of this share, in all epochs; the last ones of an epoch may be empty."""
        return self.epochs * self._groups_an_epoch

    @property
    def _groups_an_epoch(self) -> int:
        return -(-len(range(self.share[0], self.most_rows, self.share[1])) // GROUP)

    def group(self, index: int) -> list[Item]:
        """The Items of a group."""
        epoch, place = divmod(index, self._groups_an_epoch)
        order = _order(self, epoch)
        places = range(self.share[0], order.total, self.share[1])[place * GROUP : (place + 1) * GROUP]
        seed, begin = order.seeds[0], epoch * self.most_rows
        return [self.item(begin + (p if seed is None else _shuffled(p, order.total, seed))) for p in places]

    def item(self, row: int) -> Item:
        """A row, read and with its edges."""
        epoch, place = divmod(row, self.most_rows)
        order, recipe = _order(self, epoch), self.recipe
        decoy = place - len(order.rows)
        source = place if decoy < 0 else _shuffled(decoy, len(order.rows), order.seeds[1])
        (index, frame), piece = order.rows.where(source), order.rows.piece_of(source)
        domain = self.frames.domains[index]
        x, forces = domain.positions[frame], domain.forces[frame]
        if not np.all(np.isfinite(x)):
            raise InputError(f"domain {domain.name}, frame {frame}: a position is not a finite number")
        usable = bool(np.all(np.isfinite(forces)))
        weight = 1.0 if recipe.weighting is None else float(recipe.weighting.piece[piece])
        temperature_K = float(self.frames.pieces.temperature_K[piece])
        if decoy >= 0:
            noise = np.random.default_rng([order.seeds[2], decoy]).normal(0.0, recipe.decoys.noise_A, x.shape)
            x, forces, weight = (
                (x + noise).astype(np.float32),
                np.zeros_like(x),
                recipe.decoys.weight * weight,
            )
        elif recipe.noising is not None:
            draw = np.random.default_rng([order.seeds[2], place, 1]).standard_normal(x.shape)
            x, forces = noised(recipe.noising, x, forces, draw, units.thermal_energy(temperature_K))
        # of the stored positions, not of moved ones
        energies = domain.energies if decoy < 0 and recipe.noising is None else None
        energy = math.nan if energies is None else float(energies[frame])
        if not usable and decoy < 0:
            forces, weight = np.zeros_like(x), 0.0
        edges = frame_edges(x, self.frames.cutoff_A)
        own = None if domain.weights is None else domain.weights[frame]
        return Item(row, index, frame, x, forces, *edges, weight, decoy >= 0, temperature_K, energy, own)

    def packed(self, items: list[Item], budget: Budget) -> Packed:
        """The batch of these items."""
        rows = np.full(budget.graphs, -1, np.int64)
        rows[: len(items)] = [item.row for item in items]
        topologies = [self.frames.domains[item.domain].topology for item in items]
        weighting = self.recipe.weighting
        by_residue = None if weighting is None else weighting.residue
        return Packed(rows, make_batch(items, topologies, budget, by_residue))


@lru_cache(maxsize=64)
def _order(source: FrameSource, epoch: int) -> Order:
    """The epoch-th of the source's epochs; the last few are kept, since rows of two may wait together."""
    number = source.first + epoch
    if source.seed is None:
        rows, seeds = source.frames.each_once, (None, 0, 0)
    else:
        made = [int(s) for s in np.random.SeedSequence([source.seed, number]).generate_state(3)]
        rows, seeds = source.frames.epoch(source.seed, number), (made[0], made[1], made[2])
    return Order(rows, len(rows) + round(source.recipe.decoys.fraction * len(rows)), seeds)


def noised(
    noising: Noising, x: np.ndarray, forces: np.ndarray, draw: np.ndarray, kT: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and forces (n, 3) of a frame that is moved by σ times the standard normal numbers of draw."""
    pull = -kT / noising.noise_A * draw
    mixed = noising.force_share * forces + (1.0 - noising.force_share) * pull
    return (x + noising.noise_A * draw).astype(np.float32), mixed.astype(np.float32)


ENDLESS = 1 << 24
"""Epochs of a training run: more than there ever are."""


def training_batches(
    frames: FrameSet,
    budget: Budget,
    seed: int,
    epoch: int,
    recipe: Recipe,
    reading: Reading,
    epochs: int = 1,
) -> grain.IterDataset:
    """`Packed` batches of so many epochs in an order that (seed, epoch) and `reading` decide.

    A batch may hold frames of two epochs. Its iterators are to be closed. They raise InputError on a frame
    that is larger than a batch.
    """
    return _pipeline(FrameSource(frames, seed, epoch, epochs, recipe, reading.share), budget, reading)


def sweep(frames: FrameSet, budget: Budget, reading: Reading) -> grain.IterDataset:
    """`Packed` batches with every frame once, always the same: for validation and evaluation."""
    return _pipeline(FrameSource(frames, None, 0, 1, AS_THEY_ARE, reading.share), budget, reading)


def each(batches: grain.IterDataset) -> Iterator[Packed]:
    """All batches; the pipeline is closed at the end."""
    with closing(iter(batches)) as running:
        yield from running


def _pipeline(source: FrameSource, budget: Budget, reading: Reading) -> grain.IterDataset:
    read = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=READ_AHEAD)
    groups = grain.MapDataset.range(source.groups).map(source.group)
    packed = PackIterDataset(groups.to_iter_dataset(read), source, budget, reading.buffer_frames)
    if reading.workers == 0:
        return ThreadPrefetchIterDataset(packed, prefetch_buffer_size=reading.prefetch)
    if not flags.FLAGS.is_parsed():
        # grain asks absl for its flags when it starts workers, and this is no absl program
        flags.FLAGS.mark_as_parsed()
    ahead = max(reading.prefetch // reading.workers, 1)
    options = grain.MultiprocessingOptions(reading.workers, per_worker_buffer_size=ahead)
    if source.groups == 0:
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
        items: list[Item] = []
        while not items:
            try:
                items = next(self._parent)
            except StopIteration:
                return []
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
