"""Starting structures: frames of the reference, or an extended chain."""

import numpy as np


def reference_starts(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` frames of (f, n, 3) reference positions, centred at the origin, spread over the reference.

    The frames are cut into `count` equal stretches, and one is drawn from each; with fewer frames than
    that, frames are used more than once. Raises ValueError when there are no frames.
    """
    n_frames = len(positions)
    if n_frames == 0:
        raise ValueError("no reference frames to start from")
    rng = np.random.default_rng(seed)
    where = (np.arange(count) + rng.random(count)) * n_frames / count
    frames = np.asarray(positions[np.minimum(where.astype(int), n_frames - 1)], np.float32)
    return frames - frames.mean(axis=1, keepdims=True)


def extended_chain(n_beads: int, bond_A: float = 3.8, angle_rad: float = 2.1) -> np.ndarray:
    """A flat zigzag of n beads, (n, 3) Å, every dihedral trans, centred at the origin."""
    i = np.arange(n_beads)
    half = 0.5 * angle_rad
    x = np.stack([i * bond_A * np.sin(half), (i % 2) * bond_A * np.cos(half), np.zeros(n_beads)], axis=1)
    return (x - x.mean(axis=0)).astype(np.float32)
