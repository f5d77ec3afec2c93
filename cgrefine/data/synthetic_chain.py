"""A compact Cα chain of any length: helices on a hexagonal grid, joined by loops, relaxed without overlap.

At 10 Å between helix axes and 1.5 Å rise a residue has 130 Å³, the density of proteins, so that
neighbour counts are theirs too. The fold is not that of any protein.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

BOND_A = 3.8
SECOND_A = (5.3, 7.0)
"""Allowed distance of second neighbours while relaxing."""
APART_A = 5.2
"""Least distance of beads three or more apart along the chain, while relaxing."""

HELIX_RADIUS_A, HELIX_RISE_A, HELIX_TURN = 2.3, 1.5, np.radians(100.0)
GRID_A = 9.4
LOOP = 4
SHORTEST_HELIX = 8
MIN_RESIDUES = 5
RELAXATION_STEPS = 800


class Trace(NamedTuple):
    """positions: (n, 3) Cα, Å, centred on 0. helical: (n,) bool, in a helix."""

    positions: np.ndarray
    helical: np.ndarray


def compact_chain(n: int, rng: np.random.Generator) -> Trace:
    """A relaxed chain of n residues. Raises ValueError when n is below MIN_RESIDUES."""
    if n < MIN_RESIDUES:
        raise ValueError(f"{n} residues: a synthetic chain has at least {MIN_RESIDUES}")
    start, helical = _unrelaxed(n, rng)
    positions = _relaxed(start, helical)
    return Trace(positions - positions.mean(axis=0), helical)


def hexagonal_spiral(n: int) -> Float[np.ndarray, "{n} 2"]:
    """The first n cells of a hexagonal grid of unit spacing, each next to the one before."""
    steps = [(np.cos(a), np.sin(a)) for a in np.radians(60.0) * np.arange(6)]
    cells, cell = [np.zeros(2)], np.zeros(2)
    ring = 1
    while len(cells) < n:
        # a step outwards from the last cell, ring - 1 before a corner, and from there on around
        walk = [0] + [1] * (ring - 1) + [side for side in (2, 3, 4, 5, 0) for _ in range(ring)]
        for side in walk:
            cell = cell + steps[side]
            cells.append(cell)
        ring += 1
    return np.asarray(cells[:n])


def helix_lengths(n: int) -> list[int]:
    """Residues of each helix, so that the bundle is about as high as it is wide."""
    side_A = (GRID_A**2 * np.sqrt(0.75) * HELIX_RISE_A * n) ** (1 / 3)
    length = max(SHORTEST_HELIX, round(side_A / HELIX_RISE_A) - 3)
    helices = max(1, round((n + LOOP) / (length + LOOP)))
    share, rest = divmod(n - LOOP * (helices - 1), helices)
    return [share + (k < rest) for k in range(helices)]


def _unrelaxed(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    lengths = helix_lengths(n)
    cells = GRID_A * hexagonal_spiral(len(lengths))
    parts, helical = [], []
    for k, (length, cell) in enumerate(zip(lengths, cells, strict=True)):
        turn = HELIX_TURN * np.arange(length) + rng.uniform(0, 2 * np.pi)
        up = 1.0 if k % 2 == 0 else -1.0
        # going down, the turn runs the other way, so that every helix is right-handed
        x = cell[0] + HELIX_RADIUS_A * np.cos(turn)
        y = cell[1] + up * HELIX_RADIUS_A * np.sin(turn)
        z = up * HELIX_RISE_A * (np.arange(length) - (length - 1) / 2)
        helix = np.stack([x, y, z], axis=1)
        if parts:
            parts.append(_arc(parts[-1][-1], helix[0], -up, rng))
            helical += [False] * LOOP
        parts.append(helix)
        helical += [True] * length
    return np.concatenate(parts), np.asarray(helical)


def _arc(a: np.ndarray, b: np.ndarray, up: float, rng: np.random.Generator) -> np.ndarray:
    """LOOP points from a to b that bulge outwards."""
    t = (np.arange(LOOP) + 1.0)[:, None] / (LOOP + 1)
    bulge = 4 * t * (1 - t) * np.asarray([0.0, 0.0, 5.0 * up])
    return (1 - t) * a + t * b + bulge + rng.normal(0, 0.3, (LOOP, 3))


def _relaxed(start: Float[np.ndarray, "n 3"], helical: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Minimum of the strain, by FIRE: Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006).

    No BLAS, so that the chain does not depend on its threads.
    """
    anchored = np.where(helical, 0.2, 0.0)[:, None]
    x, v = start.copy(), np.zeros_like(start)
    dt, mixing, downhill = 0.02, 0.1, 0
    for _ in range(RELAXATION_STEPS):
        force = _strain_forces(x) - anchored * (x - start)
        if (force * v).sum() > 0:
            downhill += 1
            v = (1 - mixing) * v + mixing * force * np.sqrt((v**2).sum() / max((force**2).sum(), 1e-12))
            if downhill > 5:
                dt, mixing = min(1.1 * dt, 0.08), 0.99 * mixing
        else:
            v, dt, mixing, downhill = np.zeros_like(v), 0.5 * dt, 0.1, 0
        v = v + dt * force
        x = x + dt * v
    return x


def _strain_forces(x: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    i, j, apart, stiff = _strained(x)
    d = x[i] - x[j]
    r = np.sqrt((d**2).sum(axis=1))
    push = (stiff * (apart - r) / np.maximum(r, 1e-9))[:, None] * d
    return np.stack(
        [np.bincount(i, push[:, k], len(x)) - np.bincount(j, push[:, k], len(x)) for k in range(3)], axis=1
    )


def _strained(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (i, j) outside their allowed distance, the nearest allowed distance, and a stiffness."""
    n = len(x)
    chain = np.arange(n)
    second = np.linalg.norm(x[2:] - x[:-2], axis=1)
    bent = np.flatnonzero((second < SECOND_A[0]) | (second > SECOND_A[1]))
    near = KDTree(x).query_pairs(APART_A, output_type="ndarray")
    near = near[near[:, 1] - near[:, 0] >= 3]
    i = np.concatenate([chain[:-1], bent, near[:, 0]])
    j = np.concatenate([chain[1:], bent + 2, near[:, 1]])
    apart = np.concatenate(
        [np.full(n - 1, BOND_A), np.clip(second[bent], *SECOND_A), np.full(len(near), APART_A)]
    )
    stiff = np.concatenate([np.full(n - 1, 100.0), np.full(len(bent), 20.0), np.full(len(near), 20.0)])
    return i, j, apart, stiff
