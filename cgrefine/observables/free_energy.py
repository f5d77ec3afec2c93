"""Free-energy surfaces of two coordinates, F = -kT ln p, and the coordinates of TICA."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cgrefine.observables.compare import jensen_shannon
from cgrefine.observables.histogram import Bins
from cgrefine.observables.pairs import separated_pairs
from cgrefine.observables.statistics import resampled
from cgrefine.system import Topology

MAX_FEATURES = 400
"""Most distances that TICA is made of: its covariance has the square of it as entries."""


class Surface(NamedTuple):
    """A free-energy surface on grids of sizes (x, y), overflow included, in units of kT's.

    mass: (x, y), mean over groups. free_energy: inner bins, zero at its minimum, NaN where no frame was.
    stderr: of it, from a bootstrap over groups, NaN where fewer than half of the draws have a frame, and all
    NaN from a single group. outside: share of the frames beyond the grids.
    """

    mass: np.ndarray
    free_energy: np.ndarray
    stderr: np.ndarray
    outside: float


def coordinate_grid(values: Sequence[np.ndarray], count: int) -> Bins:
    """count bins from the smallest to the largest of all values; of equal ones a width of one about them."""
    joined = np.concatenate([np.asarray(v, np.float64) for v in values])
    low, high = float(joined.min()), float(joined.max())
    return Bins(low, high, count) if high > low else Bins(low - 0.5, low + 0.5, count)


def mass_2d(points: Float[np.ndarray, "frames 2"], x_grid: Bins, y_grid: Bins) -> Float[np.ndarray, "x y"]:
    """Share of the frames in each cell, overflow first and last in both directions; sums to 1."""
    cells = tuple(_index(points[:, k], grid) for k, grid in enumerate((x_grid, y_grid)))
    found = np.zeros((x_grid.size, y_grid.size))
    np.add.at(found, cells, 1.0 / len(points))
    return found


def _index(values: np.ndarray, grid: Bins) -> np.ndarray:
    """Bin of each value, as `histogram.mass` has it, on the host."""
    inner = np.where(values == grid.high, grid.count - 1, np.floor((values - grid.low) / grid.width))
    return (np.clip(inner, -1, grid.count) + 1).astype(np.int64)


def free_energy(mass: Float[np.ndarray, "x y"], kT: float) -> Float[np.ndarray, "x y"]:
    """-kT ln p of a cell's share, in the unit of kT, NaN where it is zero; all cells are of one size."""
    visited = mass > 0.0
    return np.where(visited, -kT * np.log(np.where(visited, mass, 1.0)), np.nan)


def surface(
    groups: Sequence[Float[np.ndarray, "_ 2"]],
    x_grid: Bins,
    y_grid: Bins,
    kT: float,
    draws: int = 200,
    seed: int = 0,
) -> Surface:
    """The surface of groups of frames (runs or replicas), each weighted alike.

    stderr is that of F = -kT ln p itself, not of its distance to the minimum, which is no fixed place.
    """
    masses = np.stack([mass_2d(np.asarray(g, np.float64), x_grid, y_grid) for g in groups])
    mean = masses.mean(0)
    inner = free_energy(mean, kT)[1:-1, 1:-1]
    stderr = np.full(inner.shape, np.nan)
    if len(groups) > 1:
        drawn = resampled([masses[:, 1:-1, 1:-1]], lambda m: free_energy(m, kT), draws, seed)
        seen = np.isfinite(drawn)
        count = seen.sum(0)
        center = np.where(seen, drawn, 0.0).sum(0) / np.maximum(count, 1)
        squares = np.where(seen, (drawn - center) ** 2, 0.0).sum(0)
        stderr = np.where(2 * count >= draws, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
    lowest = np.nanmin(inner) if np.isfinite(inner).any() else 0.0
    return Surface(mean, inner - lowest, stderr, float(1.0 - mean[1:-1, 1:-1].sum()))


class Difference(NamedTuple):
    """A model's surface against the reference's.

    difference: F_model - F_reference in the unit of kT, inner bins, NaN where either has no frame; of
    F = -kT ln p, not shifted to a common minimum. rmse: its root mean square over cells by the reference's
    share. jensen_shannon: nats. covered: share of the reference's frames in cells that the model visits.
    """

    difference: np.ndarray
    rmse: float
    jensen_shannon: float
    covered: float


def compared(reference: Surface, model: Surface, kT: float) -> Difference:
    """How a model's surface differs from the reference's on the same grids."""
    p, q = (s.mass[1:-1, 1:-1] for s in (reference, model))
    difference = free_energy(q, kT) - free_energy(p, kT)
    both = np.isfinite(difference)
    weight = float(p[both].sum())
    squares = float(np.sum(p[both] * difference[both] ** 2))
    rmse = float(np.sqrt(squares / weight)) if weight else float("nan")
    divergence = jensen_shannon(reference.mass.reshape(-1), model.mass.reshape(-1))
    return Difference(difference, rmse, divergence, weight)


def tica_pairs(topology: Topology) -> np.ndarray:
    """(p, 2) pairs of Cα at least 3 apart whose distances TICA is made of, at most MAX_FEATURES.

    Of chains with more only every second, third ... residue is taken.
    """
    every, pairs = 1, separated_pairs(topology, 3)
    kept = pairs
    while len(kept) > MAX_FEATURES:
        every += 1
        kept = pairs[np.all(pairs % every == 0, axis=1)]
    return kept


class Tica(NamedTuple):
    """A linear map (features (f, p) - mean) @ components to (f, 2), and the lag in frames it was made with.

    eigenvalues: (2,) autocorrelation of each coordinate at that lag.
    """

    mean: np.ndarray
    components: np.ndarray
    eigenvalues: np.ndarray
    lag: int

    def __call__(self, features: Float[np.ndarray, "frames p"]) -> Float[np.ndarray, "frames 2"]:
        """The two slowest coordinates of each frame."""
        return (np.asarray(features, np.float64) - self.mean) @ self.components


def tica(runs: Sequence[Float[np.ndarray, "_ p"]], lag: int) -> Tica | None:
    """The two slowest linear coordinates of the reference's features, by deeptime: reversible estimator.

    The same map is applied to the model. None when the runs have no more than `lag` frames, or fewer than two
    directions vary. Perez-Hernandez et al., J. Chem. Phys. 139, 015102 (2013).
    """
    from deeptime.covariance import Covariance  # slow to import, and nothing else here needs it
    from deeptime.decomposition import TICA

    longer = [np.ascontiguousarray(run, np.float64) for run in runs if len(run) > lag]
    if not longer or longer[0].shape[1] < 2:
        return None
    estimator = Covariance(
        lagtime=lag, compute_c0t=True, remove_data_mean=True, reversible=True, bessels_correction=False
    )
    for run in longer:
        estimator.partial_fit((run[:-lag], run[lag:]))
    model = TICA(lagtime=lag, dim=2, scaling=None).fit_from_covariances(estimator.fetch_model()).fetch_model()
    components = np.asarray(model.instantaneous_coefficients)[:, :2]
    if components.shape[1] < 2:
        return None
    # eigenvectors have no sign of their own: the first large entry is made positive, so that runs agree
    largest = np.argmax(np.abs(components), axis=0)
    components = components * np.sign(components[largest, np.arange(2)])
    mean = np.asarray(model.mean_0)
    return Tica(mean, components, np.asarray(model.singular_values)[:2], lag)
