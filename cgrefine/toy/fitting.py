"""Fits of the mean force: networks by the trainer of `fm`, linear forms in closed form; and their errors.

The truth is known on a grid, and so is what the noise of the forces leaves of any estimate.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine.compiling import ONCE
from cgrefine.config.data import Loader
from cgrefine.config.training import Train
from cgrefine.energy import FieldTerm, Params, SumOfTerms
from cgrefine.fm.train import EpochLog, Task, fit
from cgrefine.toy import models
from cgrefine.toy.potentials import EDGE_A, Truth, plane
from cgrefine.toy.samples import Points, Sets

RIDGE = 1e-9
"""Of the mean eigenvalue of the normal equations: constants, which no force tells, stay 0."""

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
    prior, params = SumOfTerms((models.wall(wall_k),)), models.wall_params(wall_k)
    task = Task(term, prior, params, data.training, data.validation)
    last = deque(fit(task, settings, READING), maxlen=1).pop()
    return Fit(term, last.snapshot().best, last.progress.log, last.progress.best_epoch)


class Trial(NamedTuple):
    """A linear form of one size. at_points (n, size), on_grid (g, size): forces of each coefficient alone."""

    term: FieldTerm
    at_points: np.ndarray
    on_grid: np.ndarray

    @property
    def size(self) -> int:
        """Coefficients."""
        return self.at_points.shape[1]


def trials(form: str, points: Points, x: np.ndarray) -> list[Trial]:
    """All sizes of a linear form, at the points and on a grid x."""
    make, sizes = models.LINEAR[form]
    found = []
    for size in sizes:
        term = make(size)
        design = design_of(term, size, np.concatenate([points.x, x]))
        found.append(Trial(term, *np.split(design, [len(points.x)])))
    return found


def solved(sizes: Sequence[Trial], points: Points) -> Fit:
    """A linear form by weighted least squares, its size by the held-out error."""
    held = points.held_out
    found = []
    for trial in sizes:
        weighted, inverse = _normal(trial, points)
        c = inverse @ (weighted.T @ points.force[~held])
        left = trial.at_points[held] @ c - points.force[held]
        error = float(np.mean(points.weight[held] * left**2))
        found.append((error, trial.size, Fit(trial.term, {"c": c}, (), 0)))
    return min(found, key=lambda one: one[:2])[2]


def _normal(trial: Trial, points: Points) -> tuple[np.ndarray, np.ndarray]:
    """WA and (AᵀWA)⁻¹ of the points that are not held out."""
    chosen = ~points.held_out
    design = trial.at_points[chosen]
    weighted = design * points.weight[chosen, None]
    normal = design.T @ weighted
    return weighted, np.linalg.inv(normal + RIDGE * np.trace(normal) / len(normal) * np.eye(len(normal)))


def design_of(term: FieldTerm, size: int, x: np.ndarray) -> np.ndarray:
    """(n, size): the force of each coefficient alone."""
    with jax.enable_x64(True):
        return np.asarray(_slopes(term.scalar, jnp.zeros(size, jnp.float64), jnp.asarray(x)))


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def _slopes(energy: Callable[[Params, Array], Array], c: Array, x: Array) -> Array:
    """Force at each x by each coefficient: the force is linear in them."""

    def force(c: Array, place: Array) -> Array:
        return -jax.grad(lambda u: energy({"c": c}, jnp.stack([u, 0.0 * u, 0.0 * u])[None])[0])(place)

    return jax.vmap(jax.grad(force), in_axes=(None, 0))(c, x)


def force_of(term: FieldTerm, params: Params, x: np.ndarray) -> np.ndarray:
    """Force along x (n,), kcal/mol/Å, float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        return np.asarray(_force(term.scalar, wide, jnp.asarray(plane(x, np.zeros(len(x))), jnp.float64)))


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def _force(energy: Callable[[Params, Array], Array], params: Params, positions: Array) -> Array:
    return jax.grad(lambda r: -jnp.sum(energy(params, r)))(positions)[:, 0]


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


def noise_floor(sizes: Sequence[Trial], points: Points, truth: Grid) -> Floor:
    """Roots of the expected square errors of the spline of the size that makes that of the force least.

    With design A, weights W, variances Σ of the forces about their mean f (both exact, by quadrature) and
    N = AᵀWA the coefficients have the mean N⁻¹AᵀWf and the covariance N⁻¹ AᵀWΣWA N⁻¹: bias and noise, of
    which the latter falls as parameters over points. No fit knows the best size, so that a network with as
    small an error has lost nothing to its training.
    """
    x = points.x[~points.held_out]
    force, variance = (np.interp(x, truth.x, column) for column in (truth.force, truth.variance))
    expected = []
    for trial in sizes:
        weighted, inverse = _normal(trial, points)
        mean = inverse @ (weighted.T @ force)
        covariance = inverse @ (weighted.T @ (variance[:, None] * weighted)) @ inverse
        pmfs = np.stack([pmf_of(truth.x, column) for column in trial.on_grid.T], axis=1)
        squares = [
            float(np.mean((rows @ mean - exact) ** 2 + np.sum((rows @ covariance) * rows, axis=1)))
            for rows, exact in ((trial.on_grid, truth.force), (pmfs, truth.pmf))
        ]
        expected.append((squares[0] ** 0.5, squares[1] ** 0.5, trial.size))
    return Floor(*min(expected))


def mean_and_spread(forces: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of the members of an ensemble, at each x; spread 0 of a single one."""
    stacked = np.stack(forces)
    return stacked.mean(0), stacked.std(0, ddof=1) if len(forces) > 1 else np.zeros(stacked.shape[1])
