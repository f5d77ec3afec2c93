"""Counts of the training frames by block of runs, and what the blocks say about errors.

A run is one trajectory: a domain at a temperature in one replica. Frames of a run are correlated, runs are
not: errors come from drawing whole runs again, with replacement (Efron & Tibshirani, An introduction to
the bootstrap (1993), chapter 6). So that the memory does not grow with the data, runs are dealt in turn to
at most MAX_BLOCKS blocks, and blocks are drawn.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from cgrefine.data.store import Dataset, Domain
from cgrefine.fm.priors import marginals
from cgrefine.fm.priors.classes import KINDS, Kind, Scheme
from cgrefine.fm.priors.inversion import by_level
from cgrefine.fm.priors.marginals import Marginals

MAX_BLOCKS = 32
PIECES = 8
"""Pieces in time that a single run is cut into, because one run alone tells nothing about errors."""

TEMPERATURE_TOLERANCE_K = 0.5
_CHUNK_FRAMES = 512

Counts = dict[str, np.ndarray]


class Training(NamedTuple):
    """Counts of the training frames at one temperature.

    blocks: for each of bond, angle, dihedral (in the rows of its scheme) and distance, (blocks, rows, bins).
    unit: what the blocks are made of; n_runs of them, or pieces of the one run.
    """

    marginals: Marginals
    blocks: Counts
    n_frames: int
    n_runs: int
    unit: Literal["runs", "pieces of one run"]

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.blocks["bond"])


def training_frames(domain: Domain, temperature_K: float) -> np.ndarray:
    """Indices of the training frames of a domain at one temperature (within half a kelvin)."""
    at_T = np.abs(domain.temperature_K - temperature_K) < TEMPERATURE_TOLERANCE_K
    return np.flatnonzero(at_T & ~domain.validation)


def training_counts(
    dataset: Dataset, temperature_K: float, min_separation: int, schemes: Mapping[Kind, Scheme]
) -> Training:
    """Histograms of the training frames at one temperature, together and by block."""
    runs = [
        (domain, frames)
        for domain in dataset.domains
        for frames in _runs(domain, temperature_K)
        if len(frames)
    ]
    parts, unit = runs, "runs"
    if len(runs) == 1:
        domain, frames = runs[0]
        parts = [(domain, piece) for piece in np.array_split(frames, min(PIECES, len(frames)))]
        unit = "pieces of one run"
    total = marginals.empty()
    blocks = [_rows_of(total, schemes) for _ in range(min(MAX_BLOCKS, len(parts)))]
    for index, (domain, frames) in enumerate(parts):
        own = _counted(domain, frames, min_separation)
        total = marginals.summed(total, own)
        block = blocks[index % len(blocks)]
        for kind, counts in _rows_of(own, schemes).items():
            block[kind] += counts
    stacked = {kind: np.stack([block[kind] for block in blocks]) for kind in blocks[0]} if blocks else {}
    return Training(total, stacked, sum(len(f) for _, f in runs), len(runs), unit)


def resampled(blocks: Counts, n: int, seed: int) -> Iterator[Counts]:
    """Counts (rows, bins) by kind of n samples of as many blocks, drawn with replacement."""
    rng, n_blocks = np.random.default_rng(seed), len(blocks["bond"])
    for _ in range(n):
        times = rng.multinomial(n_blocks, np.full(n_blocks, 1.0 / n_blocks))
        yield {kind: np.tensordot(times, counts, 1) for kind, counts in blocks.items()}


def standard_error(
    samples: np.ndarray, best: np.ndarray, n_blocks: int, period: float | None = None
) -> np.ndarray:
    """Root mean square deviation of samples (n, ...) from their mean, times sqrt(B/(B - 1)) for B blocks.

    The factor is that of the variance of B values drawn with replacement. period: of an angle, whose
    deviations are those from `best`, within half a period.
    """
    deviation = samples - samples.mean(axis=0)
    if period is not None:
        deviation = np.mod(samples - best + 0.5 * period, period) - 0.5 * period
    return np.asarray(np.sqrt((deviation**2).mean(axis=0) * n_blocks / (n_blocks - 1.0)))


def dispersion(blocks: np.ndarray, kind: Kind, scheme: Scheme, waves: np.ndarray) -> list[np.ndarray]:
    """How many times larger than for independent observations the variance of means is, at least 1.

    blocks (blocks, rows, bins); waves (bins, m) functions whose means are looked at, the sum of whose
    variances is compared. One array (rows,) for each scheme from global to `scheme`. A row that is seen in
    one block only has the value of the global row, and that one 1 when there is one block only.
    """
    by_block = [by_level(counts, kind, scheme) for counts in blocks]
    found: list[np.ndarray] = []
    for level in range(len(by_block[0])):
        counts = np.stack([levels[level] for levels in by_block])
        default = found[0][0] if found else 1.0
        found.append(np.array([_inflation(counts[:, row], waves, default) for row in range(counts.shape[1])]))
    return found


def _inflation(counts: np.ndarray, waves: np.ndarray, default: float) -> float:
    """`dispersion` of one row, counts (blocks, bins)."""
    n = counts.sum(axis=1)
    n_seen = int((n > 0).sum())
    if n_seen < 2:
        return default
    sums, total = counts @ waves, n.sum()
    mean = sums.sum(axis=0) / total
    independent = (counts.sum(axis=0) @ waves**2 / total - mean**2).sum() / total
    residuals = sums - n[:, None] * mean
    between = (residuals**2).sum() / total**2 * n_seen / (n_seen - 1.0)
    return max(1.0, float(between / independent)) if independent > 0.0 else default


def _runs(domain: Domain, temperature_K: float) -> list[np.ndarray]:
    """The training frames of each replica."""
    frames = training_frames(domain, temperature_K)
    replica = domain.replica[frames]
    return [frames[replica == r] for r in np.unique(replica)]


def _counted(domain: Domain, frames: np.ndarray, min_separation: int) -> Marginals:
    counts = marginals.empty()
    for start in range(0, len(frames), _CHUNK_FRAMES):
        x = domain.positions[frames[start : start + _CHUNK_FRAMES]]
        counts = marginals.counted(counts, domain.topology, x, min_separation)
    return counts


def _rows_of(counts: Marginals, schemes: Mapping[Kind, Scheme]) -> Counts:
    rows = {kind: marginals.grouped(getattr(counts, kind), kind, schemes[kind]).counts for kind in KINDS}
    return {**rows, "distance": counts.distance.counts.copy()}
