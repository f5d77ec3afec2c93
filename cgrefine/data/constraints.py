"""Rigid groups of atoms found in the data, for molecules whose bond list or constraints are not known.

A constrained bond varies by no more than the rounding of coordinates: 0.0041 Å on mdCATH's 0.01 Å grid
(a difference of two coordinates rounded to h varies by h/√6 along the bond), flexible bonds by 0.027 Å and
more. A threshold of 0.012 Å on at least MIN_FRAMES frames tells them apart; on few frames a flexible bond
can look rigid, and a threshold for exact coordinates (0.001 Å) finds no constraint at all.

    finder = finder_init(atoms, frame)
    finder = finder_step(finder, block.coords)          # block after block
    groups = rigid_groups(finder, threshold_A)          # as topology.constraint_groups
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from cgrefine.data.topology import Atoms

CANDIDATE_A = 1.7
"""Pairs nearer than this in the first frame are looked at: all bonds but those of sulfur to heavy atoms."""

MIN_FRAMES = 100

CACHED_FRAMES = 16
"""Frames whose pair distances are computed at a time."""


class Finder(NamedTuple):
    """Sums over frames. pairs: (p, 2) near pairs of atoms; first: (p,) their distances in the first frame, Å.

    sums, squares: (p,) Σ and Σ ² of distance − first. source: the molecule, for messages.
    """

    pairs: np.ndarray
    first: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    n_atoms: int
    n_frames: int
    source: str


def finder_init(atoms: Atoms, frame: Float[np.ndarray, "atoms 3"]) -> Finder:
    """The pairs to look at, from one valid frame (Å): memory grows with the number of atoms only."""
    pairs = KDTree(frame).query_pairs(CANDIDATE_A, output_type="ndarray").reshape(-1, 2).astype(np.int64)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    zeros = np.zeros(len(pairs))
    first = np.linalg.norm(frame[pairs[:, 0]].astype(np.float64) - frame[pairs[:, 1]], axis=1)
    return Finder(pairs, first, zeros, zeros, len(atoms), 0, atoms.source)


def finder_step(finder: Finder, coords: Float[np.ndarray, "frames atoms 3"]) -> Finder:
    """Add a block of valid frames."""
    i, j = finder.pairs.T
    sums, squares = finder.sums, finder.squares
    for k in range(0, len(coords), CACHED_FRAMES):
        part = coords[k : k + CACHED_FRAMES]
        change = np.linalg.norm(part[:, i].astype(np.float64) - part[:, j], axis=2) - finder.first
        sums, squares = sums + change.sum(axis=0), squares + np.square(change).sum(axis=0)
    return finder._replace(sums=sums, squares=squares, n_frames=finder.n_frames + len(coords))


def deviations(finder: Finder) -> Float[np.ndarray, " pairs"]:
    """Standard deviation of each pair's distance, Å. Raises ValueError on fewer than MIN_FRAMES frames."""
    if finder.n_frames < MIN_FRAMES:
        raise ValueError(
            f"{finder.n_frames} frames are too few to tell rigid bonds from flexible ones, {MIN_FRAMES} are "
            "needed: take force_map.constraints: topology"
        )
    mean = finder.sums / finder.n_frames
    return np.sqrt(np.maximum(finder.squares / finder.n_frames - mean**2, 0.0))


def rigid_groups(finder: Finder, threshold_A: float) -> Int[np.ndarray, " atoms"]:
    """Group of each atom: those joined by pairs whose distance varies less than the threshold.

    Groups count from 0 in the order of their first atom, single atoms are their own. Raises ValueError on
    fewer than MIN_FRAMES frames.
    """
    i, j = finder.pairs[deviations(finder) < threshold_A].T
    n = finder.n_atoms
    links = coo_array((np.ones(len(i), np.int8), (i, j)), shape=(n, n))
    _, label = connected_components(links, directed=False)
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]
