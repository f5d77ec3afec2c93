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
    """Directed edges (senders, receivers) of one molecule's frame, positions (n, 3) in Å (numpy)."""
    x = np.asarray(positions, dtype=np.float64)
    # One component at a time: three times faster than a sum over a last axis of length 3.
    dx, dy, dz = (x[:, None, c] - x[None, :, c] for c in range(3))
    squared = dx * dx + dy * dy + dz * dz
    np.fill_diagonal(squared, np.inf)
    senders, receivers = np.nonzero(squared < cutoff_A**2)
    return senders.astype(np.int32), receivers.astype(np.int32)


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
