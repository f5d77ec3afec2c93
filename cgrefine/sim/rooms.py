"""Frames of molecules as packed graphs of one fixed size, a `Room`, for which there is one program.

Frames of any number and of any molecule that are put into the same room have the same shapes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cgrefine import neighbors
from cgrefine.neighbors import Neighbors
from cgrefine.sim.forces import rounded
from cgrefine.system import Capacity, System, Topology, pack


class Room(NamedTuple):
    """What is computed at a time: so many beads, frames and edges at most."""

    beads: int
    frames: int
    edges: int


class Filled(NamedTuple):
    """A full room. chosen (k,): the frames in it, of which the first `own` are new and the others repeat
    them as far as there is room: what is not there costs the same. positions (beads, 3) Å.
    """

    chosen: np.ndarray
    own: int
    positions: np.ndarray
    system: System
    edges: Neighbors


def room(pieces: Sequence[tuple[Topology, np.ndarray]], cutoff_A: float, beads: int) -> Room:
    """Room for frames (f, n, 3) Å of these molecules, about so many beads at a time, one frame at least.

    Molecules of one length fill it exactly. Edges cost most, so there are no more of them than the sparsest
    molecule needs: none are padding.
    """
    lengths = [topology.n_beads for topology, _ in pieces]
    frames = max(1, beads // min(lengths))
    per_bead = [np.mean([len(senders) for senders, _ in _edges(x, cutoff_A)]) / x.shape[1] for _, x in pieces]
    most = max(frames * min(lengths), *lengths)
    return Room(most, frames, rounded(most * float(min(per_bead))))


def own_room(topology: Topology, frames: np.ndarray, cutoff_A: float, beads: int) -> Room:
    """Room for these frames alone, not larger than they need (to a power of two)."""
    within = room([(topology, frames)], cutoff_A, beads)
    count = min(within.frames, 1 << (len(frames) - 1).bit_length())
    return within._replace(frames=count, beads=count * topology.n_beads)


def filled(
    topology: Topology,
    frames: np.ndarray,
    cutoff_A: float,
    within: Room,
    temperature_K: float | None = None,
) -> Iterator[Filled]:
    """The frames (f, n, 3) Å of one molecule, room by room, in order and in their dtype.

    temperature_K: stated for networks that are conditioned on it. Frames with more edges than the room has
    get more. Raises ValueError when a frame has more beads than the room.
    """
    n = topology.n_beads
    if n > within.beads:
        raise ValueError(f"a room of {within.beads} beads, and a molecule of {n}")
    lists = _edges(frames, cutoff_A)
    counts = np.array([len(senders) for senders, _ in lists])
    edges, tuples = max(within.edges, rounded(float(counts.max()))), max(within.beads, 1)
    capacity = Capacity(within.beads, within.frames, tuples, tuples, tuples)
    for chosen, own in _batches(counts, min(within.frames, within.beads // n), edges):
        temperatures = None if temperature_K is None else [temperature_K] * len(chosen)
        system = pack([topology] * len(chosen), capacity, temperatures)
        positions = np.zeros((within.beads, 3), frames.dtype)
        positions[: len(chosen) * n] = frames[chosen].reshape(-1, 3)
        near = neighbors.padded(*_joined([lists[f] for f in chosen], n), edges)
        yield Filled(chosen, own, positions, system, near)


def _batches(counts: np.ndarray, frames: int, edges: int) -> Iterator[tuple[np.ndarray, int]]:
    """Frames that go together, of so many edges each (f,), and how many of them are new."""
    first = 0
    while first < len(counts):
        fits = int(np.searchsorted(np.cumsum(counts[first : first + frames]), edges, side="right"))
        mine = np.arange(first, first + fits)
        spare = edges - counts[mine].sum()
        again = min(frames - fits, int(spare // max(counts[mine].max(), 1)))
        yield np.concatenate([mine, np.resize(mine, again)]), fits
        first += fits


def _edges(x: np.ndarray, cutoff_A: float) -> list[tuple[np.ndarray, np.ndarray]]:
    return [neighbors.frame_edges(frame, cutoff_A) if cutoff_A > 0.0 else _NO_EDGES for frame in x]


_NO_EDGES = (np.zeros(0, np.int32), np.zeros(0, np.int32))


def _joined(lists: list[tuple[np.ndarray, np.ndarray]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges of frames of n beads each, as those of one packed graph."""
    senders, receivers = (
        np.concatenate([ends[k] + n * f for f, ends in enumerate(lists)]).astype(np.int32) for k in (0, 1)
    )
    return senders, receivers
