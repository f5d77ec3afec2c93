"""Fine histograms of bonds, angles, dihedrals and close distances: all that the inversion reads.

Counted in one pass over the frames, by residue type (`classes.FINEST`), so that the memory does not grow
with the data (6 MB) and every coarser scheme is a sum of rows. The same counts of a prior-only
simulation are compared with them.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine import geometry, residues
from cgrefine.fm.priors import classes
from cgrefine.fm.priors.classes import Kind, Scheme
from cgrefine.system import Topology

CONTACT_A = 10.0
"""Distances up to here are counted: quantiles of contacts, not of all pairs, do not depend on the size
of the protein."""

_EDGES = {
    "bond": np.linspace(2.0, 6.0, 801),
    "angle": np.linspace(0.0, np.pi, 361),
    "dihedral": np.linspace(-np.pi, np.pi, 361),
    "distance": np.linspace(0.0, CONTACT_A, 501),
}
_ROWS = 16384  # tuples measured at a time: one compilation serves every molecule
_PAIR_ROWS = 1 << 21  # frames times pairs at a time: about 50 MB


class Histogram(NamedTuple):
    """counts (rows, bins) float64, edges (bins+1,) in Å or rad, outside (rows,) beyond the edges."""

    counts: np.ndarray
    edges: np.ndarray
    outside: np.ndarray

    @property
    def centres(self) -> np.ndarray:
        """Bin centres, (bins,)."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    @property
    def pooled(self) -> np.ndarray:
        """Counts of all rows together, (bins,)."""
        return self.counts.sum(axis=0)


class Marginals(NamedTuple):
    """Histograms of the four kinds. bond, angle, dihedral: rows of `classes.labels(kind, FINEST)`.

    distance: row 20 a + b, a <= b, holds the pairs of species a and b at the separations that were asked.
    """

    bond: Histogram
    angle: Histogram
    dihedral: Histogram
    distance: Histogram


def empty() -> Marginals:
    """Marginals with no counts."""
    rows = {kind: len(classes.labels(kind, classes.FINEST)) for kind in classes.KINDS}
    rows = {**rows, "distance": residues.N_SPECIES**2}
    return Marginals(
        **{
            kind: Histogram(np.zeros((n, len(_EDGES[kind]) - 1)), _EDGES[kind], np.zeros(n))
            for kind, n in rows.items()
        }
    )


def counted(
    marginals: Marginals, topology: Topology, positions: np.ndarray, min_separation: int
) -> Marginals:
    """The marginals with the frames (f, n, 3) Å of one molecule added; distances at min_separation on."""
    x = np.asarray(positions)
    bonded = {
        "bond": (geometry.bond_lengths, topology.bonds, topology.bond_types),
        "angle": (geometry.bond_angles, topology.angles, topology.angle_types),
        "dihedral": (geometry.dihedrals, topology.dihedrals, topology.dihedral_types),
    }
    found = {
        kind: _added(
            getattr(marginals, kind), measured(measure, x, tuples), classes.rows(kind, classes.FINEST)[types]
        )
        for kind, (measure, tuples, types) in bonded.items()
    }
    first, second = np.triu_indices(topology.n_beads, 1)
    apart = np.abs(topology.sequence[second] - topology.sequence[first]) >= min_separation
    first, second = first[apart], second[apart]
    species = np.sort(topology.species[np.stack([first, second])], axis=0)
    pair_rows = residues.N_SPECIES * species[0] + species[1]
    distance = marginals.distance
    frames = max(1, _PAIR_ROWS // max(len(first), 1))
    for start in range(0, len(x), frames):
        part = x[start : start + frames]
        r = np.sqrt(((part[:, second] - part[:, first]) ** 2).sum(-1))
        distance = _added(distance, r, pair_rows)
    return Marginals(**found, distance=distance)


def summed(marginals: Marginals, other: Marginals) -> Marginals:
    """The counts of both together."""
    return Marginals(
        *(
            a._replace(counts=a.counts + b.counts, outside=a.outside + b.outside)
            for a, b in zip(marginals, other, strict=True)
        )
    )


def grouped(histogram: Histogram, kind: Kind, scheme: Scheme) -> Histogram:
    """A histogram of the finest rows as one of the rows of a scheme: each is the sum of its members."""
    target = classes.of_finest(kind, scheme)
    n = len(classes.labels(kind, scheme))
    return histogram._replace(
        counts=row_sums(histogram.counts, target, n), outside=row_sums(histogram.outside, target, n)
    )


def row_sums(values: np.ndarray, target: np.ndarray, n: int) -> np.ndarray:
    """values (rows, ...) added up into the n rows that target (rows,) names."""
    sums = np.zeros((n, *values.shape[1:]))
    # a molecule has few of the 400 types, and adding rows of zeros one by one is slow
    seen = np.flatnonzero(values.any(axis=tuple(range(1, values.ndim))))
    np.add.at(sums, target[seen], values[seen])
    return sums


def measured(measure: Callable, positions: np.ndarray, tuples: np.ndarray) -> np.ndarray:
    """A coordinate of `geometry` of every tuple (b, w) in every frame (f, n, 3): (f, b), Å or rad."""
    n_frames, (n_tuples, width) = len(positions), tuples.shape
    rows = positions[:, tuples].reshape(-1, width, 3)
    values = np.zeros(len(rows))
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        filled = np.resize(part, (_ROWS, width, 3))
        values[start : start + len(part)] = np.asarray(_measured_rows(measure, filled))[: len(part)]
    return values.reshape(n_frames, n_tuples)


def coarser(histogram: Histogram, factor: int) -> Histogram:
    """The same counts in bins `factor` times as wide (the number of bins must divide)."""
    counts = histogram.counts.reshape(len(histogram.counts), -1, factor).sum(-1)
    return histogram._replace(counts=counts, edges=histogram.edges[::factor])


def quantile(counts: np.ndarray, edges: np.ndarray, fraction: float) -> float:
    """Value below which this fraction of the counts lies, linear within a bin. ValueError without counts."""
    below = np.concatenate([[0.0], np.cumsum(counts)])
    if below[-1] == 0:
        raise ValueError("quantile of a histogram without counts")
    return float(np.interp(fraction * below[-1], below, edges))


@partial(jax.jit, static_argnums=0)
def _measured_rows(measure: Callable, rows: Array | np.ndarray) -> Array:
    n, width, _ = rows.shape
    return measure(rows.reshape(-1, 3), jnp.arange(n * width, dtype=jnp.int32).reshape(n, width))


def _added(histogram: Histogram, values: np.ndarray, rows: np.ndarray) -> Histogram:
    """values (f, b) counted into the rows (b,) of the histogram."""
    edges, n_bins = histogram.edges, len(histogram.edges) - 1
    width = (edges[-1] - edges[0]) / n_bins
    # float32 π lies just beyond π: a torsion of ±π belongs to the first or last bin, not outside
    rounded = np.where(np.abs(values - edges[-1]) < 1e-5, edges[-1] - 0.5 * width, values)
    rounded = np.where(np.abs(values - edges[0]) < 1e-5, edges[0] + 0.5 * width, rounded)
    place = np.floor((rounded - edges[0]) / width).astype(np.int64)
    inside = (place >= 0) & (place < n_bins)
    # only the rows that turn up, because a molecule has few of the 400 types
    seen, own = np.unique(rows, return_inverse=True)
    own = np.broadcast_to(own, values.shape)
    flat = np.bincount((own * n_bins + place)[inside], minlength=len(seen) * n_bins)
    counts, outside = histogram.counts.copy(), histogram.outside.copy()
    counts[seen] += flat.reshape(len(seen), n_bins)
    outside[seen] += np.bincount(own[~inside], minlength=len(seen))
    return histogram._replace(counts=counts, outside=outside)
