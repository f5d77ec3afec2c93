"""Packed batches: frames of different proteins in one flat graph of fixed size, compiled for once.

A batch has a budget of beads and of edge slots. Frames are packed by best fit from a shuffled buffer
until one of the two is full; an edge is never dropped. The order of an epoch depends on (seed, epoch)
alone. Edges are found on the host while a batch is made, which costs about a percent of a training step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cgrefine.data.store import Domain
from cgrefine.errors import InputError
from cgrefine.neighbors import Neighbors, frame_edges, padded
from cgrefine.system import Capacity, System, pack

BUFFER = 64
"""Frames that wait for a place, in shuffled order, while a batch is filled."""

HEADROOM = 1.1
"""Edge slots over the largest single frame, because a decoy may have more edges than its frame."""


@dataclass(frozen=True)
class FrameSet:
    """Frames chosen from domains. rows (f, 2): domain, frame; beads, edges (f,): sizes within cutoff_A."""

    domains: tuple[Domain, ...]
    cutoff_A: float
    rows: np.ndarray
    beads: np.ndarray
    edges: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def positions(self, row: int | np.integer) -> np.ndarray:
        """(n, 3) Å of one frame."""
        domain, frame = self.rows[row]
        return np.asarray(self.domains[domain].positions[frame])

    def forces(self, row: int | np.integer) -> np.ndarray:
        """(n, 3) kcal/mol/Å of one frame."""
        domain, frame = self.rows[row]
        return np.asarray(self.domains[domain].forces[frame])


class Budget(NamedTuple):
    """Fixed sizes of a batch: beads, directed edges, graphs (frames)."""

    beads: int
    edges: int
    graphs: int


class Decoys(NamedTuple):
    """Noisy copies of frames, on which the network is asked for no force.

    fraction: decoys for each frame of an epoch; noise_A: standard deviation per component; weight: of
    their beads in the loss, beside 1 for real ones.
    """

    fraction: float
    noise_A: float
    weight: float


NO_DECOYS = Decoys(0.0, 0.0, 0.0)


class Item(NamedTuple):
    """A place in a batch: a row of the FrameSet, and the seed of its noise when it is a decoy."""

    row: int
    noise_seed: tuple[int, ...] | None


class Plan(NamedTuple):
    """The batches of one epoch, and the share of edge slots that hold an edge."""

    batches: list[list[Item]]
    slots_used: float


class Batch(NamedTuple):
    """n beads of packed frames. positions (n, 3) Å, target_forces (n, 3) kcal/mol/Å, float32.

    weight (n,) float32: 1 on real beads, less on decoys, 0 on padding. decoy (n,) bool; the target
    forces of decoys are zero and stand for the residual that the network is to learn.
    """

    positions: np.ndarray
    target_forces: np.ndarray
    weight: np.ndarray
    decoy: np.ndarray
    system: System
    neighbors: Neighbors


def frame_set(domains: Sequence[Domain], validation: bool, cutoff_A: float) -> FrameSet:
    """All training (or validation) frames, with their numbers of edges within cutoff_A."""
    rows = [
        (index, frame)
        for index, domain in enumerate(domains)
        for frame in np.flatnonzero(np.asarray(domain.validation) == validation)
    ]
    table = np.asarray(rows, dtype=np.int64).reshape(-1, 2)
    return FrameSet(
        domains=tuple(domains),
        cutoff_A=cutoff_A,
        rows=table,
        beads=np.asarray([domains[d].topology.n_beads for d, _ in table], dtype=np.int64),
        edges=np.asarray(
            [len(frame_edges(domains[d].positions[f], cutoff_A)[0]) for d, f in table], np.int64
        ),
    )


def mean_neighbors(frames: FrameSet, cutoff_A: float, most: int = 2000) -> float:
    """Mean number of beads within cutoff_A of a bead, at least 1; from at most `most` even frames."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int))
    edges = sum(len(frame_edges(frames.positions(row), cutoff_A)[0]) for row in chosen)
    return max(edges / float(frames.beads[chosen].sum()), 1.0)


def budget_for(sets: Sequence[FrameSet], batch_beads: int) -> Budget:
    """The budget that holds batch_beads beads with the mean number of edges, and any single frame.

    Raises InputError when there is no frame, or one is longer than batch_beads.
    """
    beads = np.concatenate([s.beads for s in sets])
    edges = np.concatenate([s.edges for s in sets])
    if len(beads) == 0:
        raise InputError("the data set has no frame to make batches of")
    if beads.max() > batch_beads:
        raise InputError(
            f"train.batch_beads = {batch_beads} is less than the longest domain ({beads.max()} residues)"
        )
    mean = math.ceil(batch_beads * edges.sum() / beads.sum())
    slots = max(mean, math.ceil(HEADROOM * edges.max()), 1)
    return Budget(batch_beads, 64 * math.ceil(slots / 64), batch_beads // int(beads.min()))


def plan_epoch(frames: FrameSet, budget: Budget, seed: int, epoch: int, decoys: Decoys = NO_DECOYS) -> Plan:
    """Every frame once, and the epoch's decoys, in batches within the budget; deterministic."""
    rng = np.random.default_rng([seed, epoch])
    items = [Item(row, None) for row in range(len(frames))]
    beads, edges = list(frames.beads), list(frames.edges)
    for count, row in enumerate(rng.permutation(len(frames))[: round(decoys.fraction * len(frames))]):
        item = Item(int(row), (seed, epoch, count))
        items.append(item)
        beads.append(frames.beads[row])
        edges.append(len(frame_edges(_positions(frames, item, decoys), frames.cutoff_A)[0]))
    batches = best_fit(np.asarray(beads), np.asarray(edges), budget, rng)
    used = float(sum(edges)) / (len(batches) * budget.edges)
    return Plan([[items[i] for i in batch] for batch in batches], used)


def sweep(frames: FrameSet, budget: Budget) -> Plan:
    """Every frame once, always in the same batches: for validation and evaluation."""
    return plan_epoch(frames, budget, seed=0, epoch=0)


def best_fit(
    beads: np.ndarray, edges: np.ndarray, budget: Budget, rng: np.random.Generator
) -> list[list[int]]:
    """Indices of items packed into batches within the budget; each item stands in exactly one batch.

    Items come in random order; when the next one does not fit, the one with most edges that does is
    taken from the buffer. Raises ValueError when an item alone exceeds the budget.
    """
    if len(edges) and (edges.max() > budget.edges or beads.max() > budget.beads):
        raise ValueError(f"a frame of {beads.max()} beads, {edges.max()} edges exceeds the budget {budget}")
    coming = [int(i) for i in rng.permutation(len(edges))][::-1]
    waiting: list[int] = []
    batches: list[list[int]] = []
    while coming or waiting:
        batch: list[int] = []
        free_beads, free_edges = budget.beads, budget.edges
        while len(batch) < budget.graphs:
            while coming and len(waiting) < BUFFER:
                waiting.append(coming.pop())
            fitting = [i for i in waiting if beads[i] <= free_beads and edges[i] <= free_edges]
            if not fitting:
                break
            chosen = fitting[0] if fitting[0] == waiting[0] else max(fitting, key=lambda i: edges[i])
            waiting.remove(chosen)
            batch.append(chosen)
            free_beads, free_edges = free_beads - beads[chosen], free_edges - edges[chosen]
        batches.append(batch)
    return batches


def make_batch(frames: FrameSet, items: Sequence[Item], budget: Budget, decoys: Decoys = NO_DECOYS) -> Batch:
    """The packed arrays of one batch. Raises ValueError when beads or edges overflow the budget."""
    topologies = [frames.domains[frames.rows[item.row][0]].topology for item in items]
    # fewer bonds, angles and dihedrals than beads in any chain, so their capacity is that of the beads
    capacity = Capacity(budget.beads, budget.graphs, budget.beads, budget.beads, budget.beads)
    system = pack(topologies, capacity)
    positions, targets = np.zeros((budget.beads, 3), np.float32), np.zeros((budget.beads, 3), np.float32)
    weight, decoy = np.zeros(budget.beads, np.float32), np.zeros(budget.beads, bool)
    senders, receivers, start = [], [], 0
    for item, topology in zip(items, topologies, strict=True):
        rows = slice(start, start + topology.n_beads)
        x = _positions(frames, item, decoys)
        positions[rows] = x
        if item.noise_seed is None:
            targets[rows] = frames.forces(item.row)
            weight[rows] = 1.0
        else:
            decoy[rows] = True
            weight[rows] = decoys.weight
        i, j = frame_edges(x, frames.cutoff_A)
        senders.append(i + start)
        receivers.append(j + start)
        start += topology.n_beads
    edges = padded(np.concatenate(senders), np.concatenate(receivers), budget.edges)
    return Batch(positions, targets, weight, decoy, system, edges)


def _positions(frames: FrameSet, item: Item, decoys: Decoys) -> np.ndarray:
    """(n, 3) float32 Å, with the item's noise if it is a decoy."""
    x = frames.positions(item.row)
    if item.noise_seed is None:
        return x
    noise = np.random.default_rng([*item.noise_seed, 1]).normal(0.0, decoys.noise_A, x.shape)
    return (x + noise).astype(np.float32)
