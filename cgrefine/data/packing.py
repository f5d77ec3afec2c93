"""Packed batches: frames of different proteins in one flat graph of fixed size, compiled for once.

A batch has a budget of beads and of edge slots. Whole frames are packed from a buffer: in the order they
come, and at the end of a batch those that fill it best. A frame that does not fit waits for the next batch;
no edge and no frame is ever dropped.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from cgrefine.data.frames import FrameSet, sampled_sizes
from cgrefine.errors import InputError
from cgrefine.neighbors import Neighbors
from cgrefine.system import Capacity, System, Topology, pack

SINGLE_HEADROOM = 1.1
"""Edge slots over the largest single frame, because a decoy may have more edges than its frame."""

SAMPLED_FRAMES = 5000
"""Frames whose edges are counted to choose a budget; smaller sets are counted whole."""

DRY_FRAMES = 2000
"""Frames that are packed to estimate the number of batches."""


class Budget(NamedTuple):
    """Fixed sizes of a batch: beads, directed edges, graphs (frames)."""

    beads: int
    edges: int
    graphs: int


class Item(NamedTuple):
    """One frame with its edges. row: of the epoch; domain, frame: where it is stored.

    positions, forces (n, 3) float32; senders, receivers (e,) int32; weight: of its beads in the loss;
    decoy: a noisy copy, forces are zero; temperature_K: of its run. energy: kcal/mol from the mean of its
    domain, NaN when there is none that belongs to these positions. bead_weights (n,): times `weight`, None
    for 1 each.
    """

    row: int
    domain: int
    frame: int
    positions: np.ndarray
    forces: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    weight: float
    decoy: bool
    temperature_K: float
    energy: float
    bead_weights: np.ndarray | None = None

    @property
    def n_beads(self) -> int:
        """n."""
        return len(self.positions)

    @property
    def n_edges(self) -> int:
        """e."""
        return len(self.senders)


class Size(NamedTuple):
    """What packing needs to know of a frame."""

    n_beads: int
    n_edges: int


Packable = TypeVar("Packable", Item, Size)


class Batch(NamedTuple):
    """n beads of packed frames. positions (n, 3) Å, target_forces (n, 3) kcal/mol/Å, float32.

    weight (n,) float32: in the loss, 0 on padding. decoy (n,) bool; the target forces of decoys are zero
    and stand for the residual that the network is to learn.
    target_energies (g,) float32 kcal/mol, NaN where there is none; gauge (g,) int32: number, below g, of the
    group of graphs (one domain at one temperature) whose energies have the same unknown constant.
    """

    positions: np.ndarray
    target_forces: np.ndarray
    weight: np.ndarray
    decoy: np.ndarray
    target_energies: np.ndarray
    gauge: np.ndarray
    system: System
    neighbors: Neighbors


def budget_for(sets: Sequence[FrameSet], batch_beads: int, edge_headroom: float) -> Budget:
    """The budget of batch_beads beads, edge_headroom times their mean number of edges, and any frame.

    The mean and the largest frame are those of SAMPLED_FRAMES frames of each set. Graphs: as many as
    the shortest chain allows. Raises InputError when there is no frame, or one is longer than batch_beads.
    """
    lengths = [s.domains[d].n_beads for s in sets for d in np.unique(s.pieces.domain).tolist()]
    if not lengths:
        raise InputError("the data set has no frame to make batches of")
    if max(lengths) > batch_beads:
        raise InputError(
            f"train.batch_beads = {batch_beads} is less than the longest domain ({max(lengths)} residues)"
        )
    beads, edges = np.concatenate([np.stack(sampled_sizes(s, SAMPLED_FRAMES)) for s in sets], axis=1)
    mean = math.ceil(edge_headroom * batch_beads * edges.sum() / beads.sum())
    slots = max(mean, math.ceil(SINGLE_HEADROOM * edges.max()), 1)
    return Budget(batch_beads, 64 * math.ceil(slots / 64), batch_beads // min(lengths))


def estimated_batches(frames: FrameSet, budget: Budget, extra: float, buffer_frames: int) -> int:
    """About how many batches an epoch has, at least 1, from a dry run of packing. extra: decoys a frame.

    Exactly how many is known only when they are packed.
    """
    sizes = np.stack(sampled_sizes(frames, DRY_FRAMES), axis=1)
    coming = [Size(*pair) for pair in np.random.default_rng(0).permutation(sizes).tolist()]
    waiting: deque[Size] = deque()

    def more() -> list[Size]:
        return [coming.pop()] if coming else []

    batches = 0
    while next_batch(waiting, more, budget, buffer_frames):
        batches += 1
    lengths = np.asarray([domain.n_beads for domain in frames.domains], np.int64)
    pieces = frames.pieces
    beads = float((lengths[pieces.domain] * pieces.count * pieces.weight).sum()) * (1.0 + extra)
    return max(round(batches * beads / int(sizes[:, 0].sum())), 1)


def next_batch(
    waiting: deque[Packable], more: Callable[[], Sequence[Packable]], budget: Budget, buffer_frames: int
) -> list[Packable]:
    """Take the frames of the next batch out of `waiting`, [] when all are done.

    more() gives the next few frames, none at the end, and is asked while fewer than buffer_frames wait.
    Frames are taken in order while about one more fits after them, and then those that leave least room
    of beads and edges together: the oldest frame is always in, so none waits for ever. Depends on the
    frames alone. Raises ValueError on a frame that exceeds the budget by itself.
    """
    _refill(waiting, more, buffer_frames)
    if not waiting:
        return []
    typical = sum(item.n_beads for item in waiting) / len(waiting)
    taken: list[Packable] = []
    beads, edges = budget.beads, budget.edges
    while waiting and len(taken) < budget.graphs:
        n, e = waiting[0].n_beads, waiting[0].n_edges
        if n > beads or e > edges or (taken and beads - n < typical):
            break
        taken.append(waiting.popleft())
        beads, edges = beads - n, edges - e
        _refill(waiting, more, buffer_frames)
    if not taken:
        raise ValueError(
            f"a frame exceeds the budget: {waiting[0].n_beads} beads, {waiting[0].n_edges} edges"
        )
    sizes = np.array([(item.n_beads, item.n_edges) for item in waiting]).reshape(-1, 2)
    room = sizes @ (1.0 / np.array([budget.beads, budget.edges]))
    used: set[int] = set()
    while len(taken) < budget.graphs:
        fits = np.all(sizes <= (beads, edges), axis=1)
        fits[list(used)] = False
        if not fits.any():
            break
        best = int(np.where(fits, room, -1.0).argmax())
        used.add(best)
        taken.append(waiting[best])
        beads, edges = beads - int(sizes[best, 0]), edges - int(sizes[best, 1])
    for index in sorted(used, reverse=True):
        del waiting[index]
    return taken


def _refill(waiting: deque[Packable], more: Callable[[], Sequence[Packable]], buffer_frames: int) -> None:
    while len(waiting) < buffer_frames and (items := more()):
        waiting.extend(items)


def make_batch(
    items: Sequence[Item],
    topologies: Sequence[Topology],
    budget: Budget,
    residue_weights: np.ndarray | None = None,
) -> Batch:
    """The packed arrays of one batch. residue_weights (20,): of beads by species, times those of the frames.

    Raises ValueError when beads or edges overflow the budget.
    """
    # fewer bonds, angles and dihedrals than beads in any chain, so their capacity is that of the beads
    capacity = Capacity(budget.beads, budget.graphs, budget.beads, budget.beads, budget.beads)
    system = pack(topologies, capacity, [item.temperature_K for item in items])
    counts = np.array([item.n_beads for item in items])
    decoys = np.repeat([item.decoy for item in items], counts)
    n = len(decoys)
    weight, decoy = np.zeros(budget.beads, np.float32), np.zeros(budget.beads, bool)
    weight[:n] = np.repeat([item.weight for item in items], counts)
    if any(item.bead_weights is not None for item in items):
        own = [np.ones(item.n_beads) if item.bead_weights is None else item.bead_weights for item in items]
        weight[:n] *= np.concatenate(own)
    if residue_weights is not None:
        weight[:n] *= residue_weights[system.species[:n]]
    decoy[:n] = decoys
    positions, targets = np.zeros((budget.beads, 3), np.float32), np.zeros((budget.beads, 3), np.float32)
    np.concatenate([item.positions for item in items], out=positions[:n])
    np.concatenate([item.forces for item in items], out=targets[:n])
    energies, gauge = np.full(budget.graphs, np.nan, np.float32), np.zeros(budget.graphs, np.int32)
    energies[: len(items)] = [item.energy for item in items]
    groups: dict[tuple[int, float], int] = {}
    gauge[: len(items)] = [
        groups.setdefault((item.domain, item.temperature_K), len(groups)) for item in items
    ]
    edges = _joined_edges(items, counts, budget.edges)
    return Batch(positions, targets, weight, decoy, energies, gauge, system, edges)


def real_beads(batch: Batch) -> np.ndarray:
    """(n,) which beads are no padding. Raises InputError when forces of a frame are not finite."""
    real = np.asarray(batch.system.bead_mask)
    unusable = int(np.count_nonzero(real & (batch.weight == 0) & ~batch.decoy))
    if unusable:
        raise InputError(
            f"{unusable} beads are in frames with a force that is not finite; `cgrefine prepare` leaves such "
            "frames out"
        )
    return real


def slim(batch: Batch) -> Batch:
    """Without the masses, which no energy reads."""
    return batch._replace(system=batch.system._replace(mass=np.zeros(0, np.float32)))


def _joined_edges(items: Sequence[Item], counts: np.ndarray, slots: int) -> Neighbors:
    """All edges in a buffer of `slots`, shifted to the packed beads; padding points from bead 0 to itself."""
    per_item = [item.n_edges for item in items]
    total = sum(per_item)
    if total > slots:
        raise ValueError(f"{total} edges do not fit the capacity of {slots}")
    shift = np.repeat((np.cumsum(counts) - counts).astype(np.int32), per_item)
    senders, receivers = np.zeros(slots, np.int32), np.zeros(slots, np.int32)
    np.concatenate([item.senders for item in items], out=senders[:total])
    np.concatenate([item.receivers for item in items], out=receivers[:total])
    senders[:total] += shift
    receivers[:total] += shift
    edge_mask = np.zeros(slots, bool)
    edge_mask[:total] = True
    return Neighbors(senders, receivers, edge_mask, np.asarray(False))
