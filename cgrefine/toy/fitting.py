"""Fits of the mean force: networks by the trainer of `fm`, linear forms in closed form; and their errors.

The truth is known on a grid, and so is what the noise of the forces leaves of any estimate.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgrefine.config.data import Loader
from cgrefine.config.training import Train
from cgrefine.energy import FieldTerm, Params
from cgrefine.fm.train import EpochLog, Task, fit
from cgrefine.toy import models
from cgrefine.toy.potentials import EDGE_A, Truth, plane
from cgrefine.toy.samples import Points, Sets

RIDGE = 1e-9
"""Of the largest eigenvalue of the normal equations: constants, which no force tells, stay 0."""

READING = Loader(buffer_frames=64)


class Fit(NamedTuple):
    """A fitted energy. log: of each epoch, () for a linear form; epoch: that of the lowest held-out error."""

    term: FieldTerm
    params: Params
    log: tuple[EpochLog, ...]
    epoch: int


def trained(term: FieldTerm, data: Sets, settings: Train, wall_k: float) -> Fit:
    """The network on top of the confining prior, at the lowest validation error.

    The prior acts where there are no points, so that the network is the same with it and without.
    """
    prior, params = models.wall(wall_k), models.wall_params(wall_k)
    task = Task(term, prior, params, data.training, data.validation)
    last = deque(fit(task, settings, READING), maxlen=1).pop()
    return Fit(term, last.snapshot().best, last.progress.log, last.progress.best_epoch)


def solved(form: str, points: Points) -> Fit:
    """The linear form of this name by weighted least squares, its size by the held-out error."""
    make, sizes = models.LINEAR[form]
    kept, held = points.where(~points.held_out), points.where(points.held_out)
    found = []
    for size in sizes:
        term = make(size)
        params = {"c": _coefficients(term, size, kept)}
        left = force_of(term, params, held.x) - held.force
        found.append((float(np.mean(held.weight * left**2)), size, Fit(term, params, (), 0)))
    return min(found, key=lambda one: one[:2])[2]


def _design(term: FieldTerm, size: int, x: np.ndarray) -> np.ndarray:
    """(n, size): the force of each coefficient alone."""
    with jax.enable_x64(True):
        at = jnp.asarray(plane(x, np.zeros_like(x)))

        def force(c):
            return jax.grad(lambda r: -jnp.sum(term.scalar({"c": c}, r)))(at)[:, 0]

        return np.asarray(jax.vmap(force)(jnp.eye(size, dtype=jnp.float64))).T


def _coefficients(term: FieldTerm, size: int, points: Points) -> np.ndarray:
    design = _design(term, size, points.x)
    weighted = design * points.weight[:, None]
    return np.linalg.solve(_regular(design.T @ weighted), weighted.T @ points.force)


def _regular(normal: np.ndarray) -> np.ndarray:
    return normal + RIDGE * np.linalg.eigvalsh(normal)[-1] * np.eye(len(normal))


def force_of(term: FieldTerm, params: Params, x: np.ndarray) -> np.ndarray:
    """Force along x (n,), kcal/mol/Å, float64."""
    with jax.enable_x64(True):
        at = jnp.asarray(plane(np.asarray(x, np.float64), np.zeros(len(x))))
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        return np.asarray(jax.grad(lambda r: -jnp.sum(term.scalar(wide, r)))(at)[:, 0])


def pmf_of(x: np.ndarray, force: np.ndarray) -> np.ndarray:
    """Minus the integral of a force over x (sorted), of mean 0: the PMF of an energy, and of a force without.

    By the trapezoidal rule.
    """
    steps = 0.5 * (force[1:] + force[:-1]) * np.diff(x)
    pmf = -np.concatenate([[0.0], np.cumsum(steps)])
    return pmf - pmf.mean()


class Score(NamedTuple):
    """Against the truth, from -EDGE_A to EDGE_A.

    force_error: mean square error of the force over the variance of the exact one; force_rmse: its root,
    kcal/mol/Å; pmf_rmse: kcal/mol, with constants taken out.
    """

    force_error: float
    force_rmse: float
    pmf_rmse: float


@dataclass(frozen=True)
class Grid:
    """The truth on a grid that resolves every ripple. x, pmf (of mean 0), force, variance: (n,)."""

    x: np.ndarray
    pmf: np.ndarray
    force: np.ndarray
    variance: np.ndarray

    def score(self, force: np.ndarray) -> Score:
        """Of a force on the grid."""
        error = float(np.mean((force - self.force) ** 2))
        apart = pmf_of(self.x, force) - self.pmf
        return Score(error / float(self.force.var()), error**0.5, float(np.sqrt(np.mean(apart**2))))


GRID_POINTS = 4001


def grid(truth: Truth) -> Grid:
    """From -EDGE_A to EDGE_A in steps of 2.5 mÅ, 40 a wavelength of the shortest ripple."""
    x = np.linspace(-EDGE_A, EDGE_A, GRID_POINTS)
    pmf, force, variance = truth.conditional(x)
    return Grid(x, pmf - pmf.mean(), force, variance)


class Floor(NamedTuple):
    """What the noise of so many points leaves, see `noise_floor`. parameters: of the spline.

    force_rmse: kcal/mol/Å; pmf_rmse: kcal/mol.
    """

    force_rmse: float
    pmf_rmse: float
    parameters: int


def noise_floor(points: Points, truth: Grid) -> Floor:
    """Roots of the expected square errors of the spline of the size that makes that of the force least.

    With design A, weights W, variances Σ of the forces about their mean f (both exact, by quadrature) and
    N = AᵀWA the coefficients have the mean N⁻¹AᵀWf and the covariance N⁻¹ AᵀWΣWA N⁻¹: bias and noise, of
    which the latter falls as parameters over points. No fit knows the best size, so that a network with as
    small an error has lost nothing to its training.
    """
    kept = points.where(~points.held_out)
    expected = []
    for size in models.LINEAR["spline"][1]:
        term = models.spline(size)
        design = _design(term, size, kept.x)
        weighted = design * kept.weight[:, None]
        inverse = np.linalg.inv(_regular(design.T @ weighted))
        mean = inverse @ (weighted.T @ np.interp(kept.x, truth.x, truth.force))
        variance = np.interp(kept.x, truth.x, truth.variance)
        covariance = inverse @ (weighted.T @ (variance[:, None] * weighted)) @ inverse
        forces = _design(term, size, truth.x)
        pmfs = np.stack([pmf_of(truth.x, column) for column in forces.T], axis=1)
        squares = [
            float(np.mean((rows @ mean - exact) ** 2 + np.sum((rows @ covariance) * rows, axis=1)))
            for rows, exact in ((forces, truth.force), (pmfs, truth.pmf))
        ]
        expected.append((squares[0] ** 0.5, squares[1] ** 0.5, size))
    return Floor(*min(expected))


def mean_and_spread(forces: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of the members of an ensemble, at each x; spread 0 of a single one."""
    stacked = np.stack(forces)
    return stacked.mean(0), stacked.std(0, ddof=1) if len(forces) > 1 else np.zeros(stacked.shape[1])
