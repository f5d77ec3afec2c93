"""The frames that are trained on or measured: chosen from domains by part, stride and temperature.

There is no table of frames: a stretch of a run is one piece, and a row of an epoch is found by its place in
the cumulative counts, so that tens of millions of frames cost as much memory as their runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from cgrefine.data.store import Domain
from cgrefine.errors import InputError
from cgrefine.neighbors import frame_edges

TEMPERATURE_TOLERANCE_K = 0.5


class Pieces(NamedTuple):
    """p stretches of frames. domain (p,) index; start (p,) first stored frame; count (p,) frames chosen.

    temperature_K, weight (p,) float64; replica (p,): where it is from, and its frames per epoch.
    """

    domain: np.ndarray
    start: np.ndarray
    count: np.ndarray
    temperature_K: np.ndarray
    replica: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one epoch: which stored frame each of them is. phase (p,) in [0, 1), of each piece."""

    pieces: Pieces
    stride: int
    phase: np.ndarray

    @cached_property
    def ends(self) -> np.ndarray:
        """(p,) int64: rows up to and with each piece. A piece has as many j as (j + phase)/weight fit."""
        wanted = np.ceil(self.pieces.count * self.pieces.weight - self.phase)
        return np.cumsum(np.maximum(wanted, 0).astype(np.int64))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def piece_of(self, row: int) -> int:
        """The piece that a row is of."""
        return int(self.ends.searchsorted(row, side="right"))

    def where(self, row: int) -> tuple[int, int]:
        """(domain, stored frame) of a row: at weight w, the frame at (j + phase)/w of the piece."""
        piece = self.piece_of(row)
        place = row - (int(self.ends[piece - 1]) if piece else 0)
        of, weight = self.pieces, float(self.pieces.weight[piece])
        if weight != 1.0:
            place = min(int((place + float(self.phase[piece])) / weight), int(of.count[piece]) - 1)
        return int(of.domain[piece]), int(of.start[piece]) + place * self.stride


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Frames chosen from domains; their edges reach cutoff_A. Rows here are each frame once, in order."""

    domains: tuple[Domain, ...]
    cutoff_A: float
    pieces: Pieces
    stride: int

    @cached_property
    def each_once(self) -> Rows:
        """Every frame once, whatever the weights."""
        flat = self.pieces._replace(weight=np.ones(len(self.pieces.count)))
        return Rows(flat, self.stride, np.zeros(len(flat.count)))

    def epoch(self, seed: int, epoch: int) -> Rows:
        """The rows of an epoch: weights thin or repeat frames evenly, from a random phase in each piece.

        The number of rows of a piece is count · weight on average over epochs, and exactly so when
        that is an integer.
        """
        phase = np.random.default_rng([seed, epoch, 1]).random(len(self.pieces.count))
        return Rows(self.pieces, self.stride, np.where(self.pieces.weight == 1.0, 0.0, phase))

    def __len__(self) -> int:
        return len(self.each_once)

    def positions(self, row: int) -> np.ndarray:
        """(n, 3) Å of one frame."""
        domain, frame = self.each_once.where(row)
        return self.domains[domain].positions[frame]

    def forces(self, row: int) -> np.ndarray:
        """(n, 3) kcal/mol/Å of one frame."""
        domain, frame = self.each_once.where(row)
        return self.domains[domain].forces[frame]

    @cached_property
    def total_beads(self) -> int:
        """Residue-frames."""
        lengths = np.asarray([domain.n_beads for domain in self.domains], np.int64)
        return int((lengths[self.pieces.domain] * self.pieces.count).sum())


def frame_set(
    domains: Sequence[Domain],
    validation: bool,
    cutoff_A: float,
    stride: int = 1,
    temperatures_K: Sequence[float] | None = None,
    temperature_weights: Mapping[float, float] | None = None,
) -> FrameSet:
    """Every stride-th training (or validation) frame of each segment, at the given temperatures (all).

    temperature_weights: frames per epoch relative to all of them, 1 where none is given.
    Raises InputError on a temperature that no domain has.
    """
    columns = [
        np.concatenate([getattr(domain.segments, name) for domain in domains] or [np.zeros(0)])
        for name in ("start", "count", "temperature_K", "replica", "validation")
    ]
    start, count, temperature, replica, held = columns
    owner = np.repeat(np.arange(len(domains)), [len(domain.segments.start) for domain in domains])
    asked = {**dict.fromkeys(temperatures_K or (), 1.0), **(temperature_weights or {})}
    _check_temperatures(temperature, list(asked))
    weight = np.ones(len(start))
    for wanted, value in (temperature_weights or {}).items():
        weight[np.abs(temperature - wanted) < TEMPERATURE_TOLERANCE_K] = value
    chosen = held.astype(bool) == validation
    if temperatures_K is not None:
        chosen &= _near(temperature, temperatures_K)
    count = -(-count.astype(np.int64) // stride)
    columns = (owner, start.astype(np.int64), count, temperature.astype(np.float64), replica, weight)
    pieces = Pieces._make(column[chosen] for column in columns)
    return FrameSet(tuple(domains), cutoff_A, pieces, stride)


def _near(temperature: np.ndarray, wanted: Sequence[float]) -> Any:
    apart = np.abs(temperature[:, None] - np.asarray(wanted, np.float64))
    return np.any(apart < TEMPERATURE_TOLERANCE_K, axis=1)


def _check_temperatures(temperature: np.ndarray, asked: Sequence[float]) -> None:
    for wanted in asked:
        if len(temperature) and not _near(temperature, [wanted]).any():
            have = ", ".join(f"{t:g}" for t in np.unique(temperature))
            raise InputError(f"loader: no frame is at {wanted:g} K; the data set has {have} K")


def thinned(frames: FrameSet, most: int) -> FrameSet:
    """At most `most` frames, evenly strided over the whole set, each a piece of its own and of weight 1."""
    rows = frames.each_once
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))
    domain, start = np.asarray([rows.where(row) for row in chosen.tolist()], np.int64).reshape(-1, 2).T
    piece = rows.ends.searchsorted(chosen, side="right")
    one = np.ones(len(chosen), np.int64)
    old = frames.pieces
    pieces = Pieces(domain, start, one, old.temperature_K[piece], old.replica[piece], one.astype(np.float64))
    return replace(frames, pieces=pieces, stride=1)


def sampled_sizes(frames: FrameSet, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Beads and edges of all frames, or of `most` even ones when there are more."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int))
    beads, edges = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), np.int64)
    for k, row in enumerate(chosen.tolist()):
        x = frames.positions(row)
        beads[k], edges[k] = len(x), len(frame_edges(x, frames.cutoff_A)[0])
    return beads, edges


def mean_neighbors(frames: FrameSet, cutoff_A: float, most: int = 2000) -> float:
    """Mean number of beads within cutoff_A of a bead, at least 1; from at most `most` even frames."""
    within = FrameSet(frames.domains, cutoff_A, frames.pieces, frames.stride)
    beads, edges = sampled_sizes(within, most)
    return max(float(edges.sum()) / float(beads.sum()), 1.0)
