"""Where frames come from, run-length encoded; and coordinates on a 0.01 Å grid as exact int16.

A segment is a stretch of consecutive stored frames of one run, at a constant stride, in one part of the
split, and with one origin. Millions of frames need a few numbers for each run.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

GRID_PER_A = 100
"""XTC files, and so mdCATH, hold coordinates as multiples of 0.01 Å."""

ULPS = 4
"""Units in the last place of a float32 (2⁻²³ relative) that a coordinate may be off its grid point: it was
divided in nm and multiplied in float32."""

MAX_OFF_GRID = 0.05
"""Never more than this part of the grid: beyond |x| of 1000 Å a float32 cannot tell grid from no grid."""

LARGEST_GRID = 2**30
"""Grid points beyond are not numbered: 1e7 Å, which no molecule reaches."""

_INT16_SPAN = 65535


class Segments(NamedTuple):
    """s stretches of frames. start, count (s,) int64: rows of the stored arrays; temperature_K (s,) float32.

    replica (s,) int32; first, stride (s,) int64: frame k of a segment is frame first + k·stride of its run.
    validation (s,) bool; origin (s, 3) int32: added to int16 coordinates, in 0.01 Å (0 for float32 ones).
    """

    start: np.ndarray
    count: np.ndarray
    temperature_K: np.ndarray
    replica: np.ndarray
    first: np.ndarray
    stride: np.ndarray
    validation: np.ndarray
    origin: np.ndarray

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.start[-1] + self.count[-1]) if len(self.start) else 0

    def spread(self, values: np.ndarray) -> np.ndarray:
        """(f, ...) the value of each frame's segment. values: (s, ...)."""
        return np.repeat(values, self.count, axis=0)

    def source_frame(self) -> np.ndarray:
        """(f,) int32: index of each frame in its run."""
        within = np.arange(self.n_frames) - self.spread(self.start)
        return (self.spread(self.first) + within * self.spread(self.stride)).astype(np.int32)


def segments_of(
    temperature_K: np.ndarray, replica: np.ndarray, frame: np.ndarray, validation: np.ndarray
) -> Segments:
    """Segments of per-frame arrays (f,): a new one where a run, a part or a stride ends."""
    temperature_K, source = np.asarray(temperature_K, np.float32), np.asarray(frame, np.int64)
    replica, validation = np.asarray(replica, np.int32), np.asarray(validation, bool)
    f = len(source)
    same = (np.diff(temperature_K) == 0) & (np.diff(replica) == 0) & (np.diff(validation) == 0)
    step = np.diff(source)
    same &= step > 0
    # frame i goes on from i-1 when it is of the same run and, from the third frame on, at the same stride
    steady = np.zeros(f, bool)
    steady[2:] = same[1:] & same[:-1] & (step[1:] == step[:-1])
    starts, i = [], 0
    # the next frame that breaks the stride, from the right, so that long runs cost one step each
    unsteady = np.append(np.flatnonzero(~steady), f)
    while i < f:
        starts.append(i)
        if i + 1 < f and same[i]:
            i = int(unsteady[np.searchsorted(unsteady, i + 2)]) if i + 2 < f else f
        else:
            i += 1
    start = np.asarray(starts, np.int64)
    count = np.diff(np.append(start, f))
    second = np.minimum(start + 1, max(f - 1, 0))
    stride = np.where(count > 1, source[second] - source[start], 1) if f else start
    origin = np.zeros((len(start), 3), np.int32)
    return Segments(
        start, count, temperature_K[start], replica[start], source[start], stride, validation[start], origin
    )


def rows_of(segments: Segments) -> list[list[Any]]:
    """JSON-able rows: start, count, temperature_K, replica, first, stride, validation, origin."""
    columns = [column.tolist() for column in segments]
    return [list(row) for row in zip(*columns, strict=True)]


def from_rows(rows: Sequence[Sequence[Any]]) -> Segments:
    """Inverse of `rows_of`. Raises ValueError when the rows do not follow each other from frame 0."""
    table = np.array([row[:7] for row in rows], np.float64).reshape(-1, 7)
    dtypes = (np.int64, np.int64, np.float32, np.int32, np.int64, np.int64, bool)
    columns = [column.astype(dtype) for column, dtype in zip(table.T, dtypes, strict=True)]
    origin = np.array([row[7] for row in rows], np.int32).reshape(-1, 3)
    start, count = columns[0].tolist(), columns[1].tolist()
    if min(count, default=1) < 1 or [0, *accumulate(count)][: len(count)] != start:
        raise ValueError("segments do not follow each other")
    return Segments._make([*columns, origin])


class Snapped(NamedTuple):
    """Coordinates at their nearest grid points. grid: int32, in 0.01 Å. fits: whether all were on the grid:

    off by at most ULPS units in the last place, and by MAX_OFF_GRID of the grid. off_A: largest distance, Å.
    """

    grid: np.ndarray
    fits: bool
    off_A: float


def snapped(positions: np.ndarray) -> Snapped:
    """float32 positions (any shape, finite, Å) on the 0.01 Å grid."""
    scaled = np.asarray(positions, np.float32) * np.float32(GRID_PER_A)
    nearest = np.rint(scaled)
    np.subtract(scaled, nearest, out=scaled)
    off = np.abs(scaled, out=scaled)
    largest = float(off.max(initial=0.0)) / GRID_PER_A
    allowed = np.abs(nearest)
    reachable = bool(allowed.max(initial=0.0) < LARGEST_GRID)
    # one unit more, for the rounding of the product
    allowed *= np.float32((ULPS + 1) * 2.0**-23)
    fits = reachable and bool((off <= np.minimum(allowed, np.float32(MAX_OFF_GRID), out=allowed)).all())
    return Snapped(
        nearest.astype(np.int32) if reachable else np.zeros(nearest.shape, np.int32), fits, largest
    )


def extent(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest coordinate of each frame, (f, 3) each. grid: (f, n, 3), n > 0."""
    return _folded(grid, np.minimum), _folded(grid, np.maximum)


def _folded(grid: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """Halves laid on each other: whole rows at a time, where a reduction along the middle axis takes 3."""
    while (n := grid.shape[1]) > 1:
        half = n // 2
        upper = extreme(grid[:, :half], grid[:, half : 2 * half])
        if n % 2:
            upper[:, 0] = extreme(upper[:, 0], grid[:, -1])
        grid = upper
    return grid[:, 0]


def with_origins(segments: Segments, low: np.ndarray, high: np.ndarray) -> Segments | None:
    """Segments cut where frames no longer fit int16 around one origin; None when a single frame does not.

    low, high: (f, 3) int64, extrema of each frame in 0.01 Å. The origin is the middle of a segment.
    """
    if ((high - low) > _INT16_SPAN).any():
        return None
    pieces: list[tuple[int, int, int]] = []
    for index, (start, count) in enumerate(
        zip(segments.start.tolist(), segments.count.tolist(), strict=True)
    ):
        pieces += [(index, *piece) for piece in _fitting(low, high, start, start + count)]
    of, start, stop = (np.asarray(column, np.int64) for column in zip(*pieces, strict=True))
    middle = [(low[a:b].min(0) + high[a:b].max(0) + 1) // 2 for a, b in zip(start, stop, strict=True)]
    cut = Segments(*(column[of] for column in segments))
    return cut._replace(
        start=start,
        count=stop - start,
        first=cut.first + (start - cut.start) * cut.stride,
        origin=np.asarray(middle, np.int32),
    )


def _fitting(low: np.ndarray, high: np.ndarray, start: int, stop: int) -> list[tuple[int, int]]:
    """Frames start to stop in the longest stretches whose extent fits int16, taken from the front."""
    if ((high[start:stop].max(0) - low[start:stop].min(0)) <= _INT16_SPAN).all():
        return [(start, stop)]
    pieces, begin, bottom, top = [], start, low[start], high[start]
    for i in range(start + 1, stop):
        bottom, top = np.minimum(bottom, low[i]), np.maximum(top, high[i])
        if ((top - bottom) > _INT16_SPAN).any():
            pieces.append((begin, i))
            begin, bottom, top = i, low[i], high[i]
    return [*pieces, (begin, stop)]
