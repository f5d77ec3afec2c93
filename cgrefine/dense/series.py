"""Fourier series of dihedral energies, summed by the addition theorem instead of read from a table."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine.dense.tables import tabulated
from cgrefine.energy import BondedTerm, Params
from cgrefine.system import Topology

SERIES_POINTS = 512
SERIES_ERROR = 1e-7
"""Points of a dihedral that its Fourier series is made of, and the relative size below which it ends."""

MOST_HARMONICS = 12
"""Curves of dihedrals with more (splines) are tables: the harmonics are unrolled in the program."""


class Series(NamedTuple):
    """Fourier series of the dihedrals along the chain, kcal/mol: mean (m,); cosines, sines (harmonics, m)."""

    mean: Array | np.ndarray
    cosines: Array | np.ndarray
    sines: Array | np.ndarray


def series_of(terms: Sequence[BondedTerm], params: Params, topology: Topology, dtype: Any) -> Series | None:
    """Series of the curves of the dihedrals, to SERIES_ERROR of the largest; None if it is a long one."""
    codes, which = np.unique(topology.dihedral_types, return_inverse=True)
    grid = -np.pi + 2.0 * np.pi * np.arange(SERIES_POINTS) / SERIES_POINTS
    energies, _ = tabulated(terms, params, grid, codes)
    waves = np.fft.rfft(energies, axis=1)[:, : SERIES_POINTS // 2] * 2.0 / SERIES_POINTS
    # the grid begins at -π: harmonic k has the sign (-1)^k
    waves = waves * (-1.0) ** np.arange(waves.shape[1])
    size = np.abs(waves[:, 1:]).max(axis=0)
    kept = np.flatnonzero(size > SERIES_ERROR * max(size.max(), 1e-30))
    n = int(kept[-1]) + 2 if len(kept) else 2
    if n - 1 > MOST_HARMONICS:
        return None
    rows = np.zeros((2, n, topology.n_beads - 3))
    rows[:, :, topology.dihedrals[:, 0]] = np.stack([waves.real, -waves.imag])[:, which, :n].swapaxes(1, 2)
    cosines, sines = rows.astype(dtype)
    return Series(0.5 * cosines[0], cosines[1:], sines[1:])


def evaluated(series: Series, cosine: Array, sine: Array) -> tuple[Array, Array]:
    """Σ a_k cos kφ + b_k sin kφ and its slope in φ, from cos φ and sin φ by the addition theorem."""
    a, b = jnp.asarray(series.cosines), jnp.asarray(series.sines)
    energy, slope = jnp.broadcast_to(jnp.asarray(series.mean), cosine.shape), jnp.zeros_like(cosine)
    c, s = cosine, sine
    for k in range(a.shape[0]):
        energy = energy + a[k] * c + b[k] * s
        slope = slope + (k + 1.0) * (b[k] * c - a[k] * s)
        c, s = c * cosine - s * sine, s * cosine + c * sine
    return energy, slope
