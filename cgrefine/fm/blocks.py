"""Standard errors of force errors: blocks of consecutive frames are drawn again with replacement.

Sums of squares are kept by block, and every ratio of them is formed again from the sums of each drawing, so
that numbers that are compared (two models, two residue types) see the same frames in every drawing.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cgrefine.data.frames import FrameSet

BLOCK_FRAMES = 10
"""Consecutive chosen frames of one trajectory that are drawn together, at least."""

MOST_BLOCKS = 5000
"""Blocks get longer when there would be more of them; a run is one block at most."""

RESAMPLES = 500


class Estimate(NamedTuple):
    """A number and its standard error (NaN where there is only one block)."""

    value: float
    stderr: float


class Blocks(NamedTuple):
    """of (f,): block of each frame. domain (b,) index, temperature_K (b,) float64: of each block."""

    of: np.ndarray
    domain: np.ndarray
    temperature_K: np.ndarray

    def __len__(self) -> int:
        return len(self.domain)


def frame_blocks(frames: FrameSet) -> Blocks:
    """Stretches of consecutive rows of one domain, temperature and replica: of BLOCK_FRAMES frames, or more.

    With more than MOST_BLOCKS of them the length is doubled until there are fewer, or each run is one.
    """
    pieces = frames.pieces
    keys = np.column_stack([pieces.domain, pieces.temperature_K, pieces.replica])
    runs, inverse = np.unique(keys, axis=0, return_inverse=True)
    run = np.repeat(inverse.reshape(-1), pieces.count)
    length = np.bincount(run, minlength=len(runs))
    size = BLOCK_FRAMES
    while (-(-length // size)).sum() > MOST_BLOCKS and size < length.max():
        size *= 2
    order = np.argsort(run, kind="stable")
    place = np.empty(len(run), np.int64)
    place[order] = np.arange(len(run)) - np.repeat(np.cumsum(length) - length, length)
    n_blocks = -(-length // size)
    of = (np.cumsum(n_blocks) - n_blocks)[run] + place // size
    domain, temperature_K = np.repeat(runs[:, :2], n_blocks, axis=0).T
    return Blocks(of, domain.astype(np.int64), temperature_K)


def drawings(n_blocks: int, rng: np.random.Generator) -> Float[np.ndarray, "draws blocks"]:
    """How often each block is drawn: first every block once, then RESAMPLES drawings with replacement.

    With a single block the drawings are NaN: there is nothing to tell its spread from.
    """
    once = np.ones((1, n_blocks))
    if n_blocks < 2:
        return np.concatenate([once, np.full((RESAMPLES, n_blocks), np.nan)])
    return np.concatenate([once, rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), RESAMPLES)])


def drawn(
    counts: Float[np.ndarray, "draws blocks"], per_block: Float[np.ndarray, "blocks ..."]
) -> Float[np.ndarray, "draws ..."]:
    """Sums over blocks in each drawing."""
    flat = counts @ per_block.reshape(len(per_block), -1)
    return flat.reshape(len(counts), *per_block.shape[1:])


def estimate(values: Float[np.ndarray, " draws"]) -> Estimate:
    """The value of the first drawing (all blocks) and the spread of the others that are finite numbers.

    A drawing without any frame of the kind in question gives none; NaN when fewer than half do.
    """
    spread = values[1:][np.isfinite(values[1:])]
    enough = len(spread) > 1 and 2 * len(spread) >= len(values) - 1
    stderr = float(np.std(spread)) if enough else np.nan
    return Estimate(float(values[0]), stderr)


def interval(values: Float[np.ndarray, " draws"], confidence: float) -> tuple[float, float]:
    """Percentile interval of the drawings after the first; NaN where they are."""
    low, high = np.quantile(values[1:], [0.5 - 0.5 * confidence, 0.5 + 0.5 * confidence])
    return float(low), float(high)


def add_rows(
    into: Float[np.ndarray, "size ..."], index: Int[np.ndarray, " n"], values: Float[np.ndarray, "n ..."]
) -> None:
    """into[index] += values, rows of the same index summed."""
    present, place = np.unique(index, return_inverse=True)
    flat = values.reshape(len(values), -1)
    columns = [np.bincount(place, weights=flat[:, c]) for c in range(flat.shape[1])]
    into[present] += np.stack(columns, axis=1).reshape(len(present), *into.shape[1:])
