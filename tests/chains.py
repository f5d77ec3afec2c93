"""Chains with known geometry: built bead by bead from bond lengths, angles and dihedrals (numpy)."""

import numpy as np

from cgrefine.residues import N_SPECIES
from cgrefine.system import Topology, topology_from_species


def placed(a: np.ndarray, b: np.ndarray, c: np.ndarray, r: float, theta: float, phi: float) -> np.ndarray:
    """The bead d with |cd| = r, angle b-c-d = theta and dihedral a-b-c-d = phi (rad, IUPAC)."""
    bc = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, bc)
    normal /= np.linalg.norm(normal)
    aside = np.cross(normal, bc)
    local = r * np.array([-np.cos(theta), np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi)])
    return c + local[0] * bc + local[1] * aside + local[2] * normal


def chain_from_internal(bonds: np.ndarray, angles: np.ndarray, dihedrals: np.ndarray) -> np.ndarray:
    """Positions (n, 3) of a chain with n-1 bond lengths (Å), n-2 angles and n-3 dihedrals (rad)."""
    n = len(bonds) + 1
    x = np.zeros((n, 3))
    x[1] = [bonds[0], 0.0, 0.0]
    if n > 2:
        x[2] = x[1] + bonds[1] * np.array([-np.cos(angles[0]), np.sin(angles[0]), 0.0])
    for i in range(3, n):
        x[i] = placed(x[i - 3], x[i - 2], x[i - 1], bonds[i - 1], angles[i - 2], dihedrals[i - 3])
    return x


def random_chain(n: int, seed: int) -> np.ndarray:
    """A random chain of n beads, (n, 3) Å: bonds near 3.8, angles 85-140°, any dihedral; no two beads
    three or more apart along the chain are closer than 3.9 Å (a crowded end is grown again)."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 3))
    i = 0
    while i < n:
        bond, angle = rng.normal(3.8, 0.05), rng.uniform(1.5, 2.45)
        grown = False
        for _ in range(20):
            if i < 3:
                x[i] = chain_from_internal(np.full(2, bond), np.array([angle]), np.zeros(0))[i]
            else:
                x[i] = placed(x[i - 3], x[i - 2], x[i - 1], bond, angle, rng.uniform(-np.pi, np.pi))
            grown = bool((np.linalg.norm(x[: max(i - 2, 0)] - x[i], axis=1) > 3.9).all())
            if grown:
                break
        i = i + 1 if grown else max(i - 5, 0)
    return x


def random_topology(n: int, seed: int) -> Topology:
    """A chain of n random residues of all twenty species (so every class of bonded term turns up)."""
    species = np.random.default_rng(seed).integers(0, N_SPECIES, n)
    return topology_from_species(species)


def ideal_helix(n: int, rise_A: float = 1.5, turn_deg: float = 100.0, radius_A: float = 2.3) -> np.ndarray:
    """Cα positions (n, 3) of a right-handed α-helix along z."""
    turn = np.deg2rad(turn_deg) * np.arange(n)
    return np.stack([radius_A * np.cos(turn), radius_A * np.sin(turn), rise_A * np.arange(n)], axis=1)
