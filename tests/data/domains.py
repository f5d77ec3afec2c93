"""Domains in memory: random chains with random forces, two temperatures, every fourth frame held out."""

import numpy as np

from cgrefine.data.store import Domain, in_memory
from tests.chains import random_chain, random_topology


def domain(n: int, n_frames: int, seed: int) -> Domain:
    """n residues, n_frames frames; the second half of the frames is at 450 K."""
    x = np.stack([random_chain(n, 100 * seed + k) for k in range(n_frames)]).astype(np.float32)
    hot = np.arange(n_frames) >= n_frames // 2
    arrays = {
        "positions": x,
        "forces": np.random.default_rng(seed).normal(size=x.shape).astype(np.float32),
        "temperature_K": np.where(hot, 450.0, 320.0),
        "replica": np.zeros(n_frames),
        "frame": np.arange(n_frames) % max(n_frames // 2, 1),
        "validation": np.arange(n_frames) % 4 == 3,
    }
    return in_memory(f"d{seed}", random_topology(n, seed), arrays)


def flat_domain(seed: int, runs: list[tuple[float, int, bool]]) -> Domain:
    """Three residues, positions that tell the stored frame; runs: (temperature, frames, held out)."""
    counts = [count for _, count, _ in runs]
    total = sum(counts)
    x = np.repeat(np.arange(total, dtype=np.float32), 9).reshape(total, 3, 3)
    arrays = {
        "positions": x,
        "forces": np.zeros_like(x),
        "temperature_K": np.repeat([t for t, _, _ in runs], counts),
        "replica": np.repeat(np.arange(len(runs)), counts),
        "frame": np.concatenate([np.arange(count) for count in counts]),
        "validation": np.repeat([held for _, _, held in runs], counts),
    }
    return in_memory(f"flat{seed}", random_topology(3, seed), arrays)
