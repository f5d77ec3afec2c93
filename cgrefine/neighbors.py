"""Neighbour lists of a packed graph: flat directed edges, exact, never truncated in silence.

An edge goes from a centre bead (`senders`) to one of its neighbours (`receivers`); both directions of
each pair are present and edges are sorted by sender. Per-bead energies are summed at the sender.
Two ways to make them: on the host in numpy, once per frame of a data set (`frame_edges`), and on the
device at each MD step (`update`): up to about 500 beads a molecule, an all-pairs test within each
graph and a `nonzero` of fixed size cost less than a percent of the network, so there is no skin.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine.geometry import AnyArray
from cgrefine.system import System

_BLOCK_PAIRS = 40_000
"""Pairs of a block: 160 kB in float32; and too few multiplications for BLAS to start threads."""


class Neighbors(NamedTuple):
    """senders, receivers (e,) int32; edge_mask (e,) bool; overflow () bool: more edges than e exist.

    Masked edges point from bead 0 to bead 0.
    """

    senders: Array | np.ndarray
    receivers: Array | np.ndarray
    edge_mask: Array | np.ndarray
    overflow: Array | np.ndarray


class Candidates(NamedTuple):
    """All directed pairs within each graph of a System: senders, receivers (p,) int32, sorted by sender."""

    senders: np.ndarray
    receivers: np.ndarray


def candidates(system: System) -> Candidates:
    """Every directed pair of different, unpadded beads of the same graph (numpy, once per system)."""
    senders, receivers = [], []
    graph_id = np.asarray(system.graph_id)
    for g in np.flatnonzero(system.graph_mask):
        beads = np.flatnonzero((graph_id == g) & system.bead_mask)
        i, j = np.meshgrid(beads, beads, indexing="ij")
        off_diagonal = i != j
        senders.append(i[off_diagonal])
        receivers.append(j[off_diagonal])
    return Candidates(np.concatenate(senders).astype(np.int32), np.concatenate(receivers).astype(np.int32))


def update(
    positions: Float[AnyArray, "beads 3"], pairs: Candidates, cutoff_A: float, capacity: int
) -> Neighbors:
    """Edges shorter than the cutoff, in a buffer of `capacity` edges (traceable, static sizes).

    `overflow` is True when more edges exist than fit: the caller must discard the result and regrow.
    Beads with non-finite positions have no edges.
    """
    vectors = positions[pairs.receivers] - positions[pairs.senders]
    within = jnp.sum(vectors * vectors, axis=-1) < cutoff_A**2
    (index,) = jnp.nonzero(within, size=capacity, fill_value=len(pairs.senders))
    edge_mask = index < len(pairs.senders)
    safe = jnp.where(edge_mask, index, 0)
    return Neighbors(
        senders=jnp.where(edge_mask, jnp.asarray(pairs.senders)[safe], 0),
        receivers=jnp.where(edge_mask, jnp.asarray(pairs.receivers)[safe], 0),
        edge_mask=edge_mask,
        overflow=jnp.sum(within) > capacity,
    )


def frame_edges(positions: np.ndarray, cutoff_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Directed edges (senders, receivers) int32 of one molecule's frame, sorted; positions (n, 3) Å (numpy).

    All pairs as |x|² + |y|² - 2xy in float32, a block of rows at a time so that it stays in the cache; pairs
    closer to the cutoff than the rounding error are decided in float64. Faster than cell lists up to about
    2,000 beads. Raises ValueError when a position is not finite.
    """
    x = np.asarray(positions)
    n, cutoff2 = len(x), cutoff_A**2
    left, right, largest = _pair_factors(x)
    # five products and sums of terms up to 4 max |x|², and rounded coordinates: below 40 · 2⁻²⁴ max |x|²
    error = 64 * 2.0**-24 * largest
    if not np.isfinite(error):
        raise ValueError("positions are not all finite")
    low, high = np.float32(cutoff2 - error), np.float32(cutoff2 + error)
    rows = max(_BLOCK_PAIRS // max(n, 1), 1)
    found = [np.zeros(0, np.int64)]
    for start in range(0, n, rows):
        block = (left[start : start + rows] @ right).reshape(-1)
        block[start :: n + 1] = np.inf
        pairs = (block < high).nonzero()[0]
        doubtful = (block[pairs] >= low).nonzero()[0]
        pairs += start * n
        found.append(pairs if len(doubtful) == 0 else _without_longer(pairs, doubtful, x, cutoff2))
    pairs = found[-1] if len(found) <= 2 else np.concatenate(found)
    first = np.arange(n) * n
    ends = pairs.searchsorted(first + n)
    ends[1:] -= ends[:-1].copy()
    senders = np.arange(n, dtype=np.int32).repeat(ends)
    return senders, (pairs - first.repeat(ends)).astype(np.int32)


def _pair_factors(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(n, 5), (5, n) float32 whose product are the squared distances of all pairs; and max |x|²."""
    n = len(x)
    centre = np.add.reduce(x, axis=0, dtype=np.float64) / max(n, 1)
    left, right = np.empty((n, 5), np.float32), np.empty((5, n), np.float32)
    left[:, :3] = x - centre
    left[:, 4] = right[3] = 1.0
    squares = np.einsum("ij,ij->i", left[:, :3], left[:, :3])
    left[:, 3] = right[4] = squares
    np.multiply(left[:, :3].T, -2, out=right[:3])
    return left, right, float(squares.max(initial=0.0))


def _without_longer(pairs: np.ndarray, doubtful: np.ndarray, x: np.ndarray, cutoff2: float) -> np.ndarray:
    """Pairs i·n + j without those of `doubtful` (indices of pairs) that are not within the cutoff."""
    i, j = np.divmod(pairs[doubtful], len(x))
    # the same order of operations as a direct float64 sum, so that ties at the cutoff agree
    dx, dy, dz = (x[i].astype(np.float64) - x[j]).T
    keep = np.ones(len(pairs), bool)
    keep[doubtful] = dx * dx + dy * dy + dz * dz < cutoff2
    return pairs[keep]


def padded(senders: np.ndarray, receivers: np.ndarray, capacity: int) -> Neighbors:
    """Host edges in a buffer of `capacity`. Raises ValueError when they do not fit."""
    count = len(senders)
    if count > capacity:
        raise ValueError(f"{count} edges do not fit the capacity of {capacity}")
    fill = np.zeros(capacity - count, np.int32)
    return Neighbors(
        senders=np.concatenate([senders, fill]).astype(np.int32),
        receivers=np.concatenate([receivers, fill]).astype(np.int32),
        edge_mask=np.arange(capacity) < count,
        overflow=np.asarray(False),
    )


def exact(system: System, positions: np.ndarray, cutoff_A: float) -> Neighbors:
    """Edges of a packed system at given positions, with no padding (numpy; tests, references, audits)."""
    pairs = candidates(system)
    x = np.asarray(positions, dtype=np.float64)
    within = ((x[pairs.receivers] - x[pairs.senders]) ** 2).sum(-1) < cutoff_A**2
    return padded(pairs.senders[within], pairs.receivers[within], int(within.sum()))
