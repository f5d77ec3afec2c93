"""The refinement of `boltzmann` on the particle: a model that never saw one well, corrected by x's histogram.

Everything that the loop estimates from simulation is known here by quadrature over x.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine import units
from cgrefine.boltzmann.estimate import Objective
from cgrefine.boltzmann.gradient import coefficients, effective_sizes, projected
from cgrefine.boltzmann.learning import Learner
from cgrefine.boltzmann.pool import Rules
from cgrefine.boltzmann.refine import Info, Phase, Refinement
from cgrefine.boltzmann.samples import Choice
from cgrefine.boltzmann.surrogate import CHUNK_BEADS, Ensemble, surrogate_gradient
from cgrefine.boltzmann.targets import Target
from cgrefine.boltzmann.weights import uniform_weights
from cgrefine.boltzmann.windows import Molecule, Pack, Simulator, Window
from cgrefine.config.refining import Refine
from cgrefine.energy import FieldTerm, Params, SumOfTerms
from cgrefine.fm.minibatches import Minibatches
from cgrefine.observables.histogram import Bins
from cgrefine.observables.structure import Observable, scalar_histogram, valuer
from cgrefine.sim import rooms
from cgrefine.sim.rollout import settings
from cgrefine.toy.dynamics import PARTICLE, Course, particles, unlimited
from cgrefine.toy.models import NAME
from cgrefine.toy.potentials import EDGE_A, FAR_A, Known, Truth, bin_of, binned, nodes, normalised, plane
from cgrefine.toy.samples import Points, Sets


def _x(positions: Float[Array, "beads 3"]) -> Float[Array, ""]:
    return positions[0, 0]


def histogram_of_x(count: int) -> Observable:
    """The distribution of x in so many bins from -EDGE_A to EDGE_A."""
    return scalar_histogram("x", "Å", _x, Bins(-EDGE_A, EDGE_A, count))


def exact_target(observable: Observable, truth: Truth, cfg: Refine) -> Target:
    """The exact histogram, without noise and so without a floor; kind and weight are those of the section."""
    assert observable.grid is not None
    wanted = cfg.targets[0]
    mean = truth.histogram(observable.grid)
    return Target(observable, wanted.kind, mean, np.zeros_like(mean), 1.0, wanted.weight)


def known(model: SumOfTerms, params: Params, kT: float) -> Known:
    """The energy of a model by quadrature."""
    x, width = nodes(-FAR_A, FAR_A)
    with jax.enable_x64(True):
        energy = np.asarray(_energies(model, _wide(params), jnp.asarray(x)))
    return Known(x, normalised(energy, width, kT), energy)


def _energies(model: SumOfTerms, params: Params, x: Array) -> Array:
    positions = jnp.stack([x, jnp.zeros_like(x), jnp.zeros_like(x)], axis=1)
    parts = [t.scalar(params[t.name], positions) for t in model.terms if isinstance(t, FieldTerm)]
    return jnp.sum(jnp.stack(parts), axis=0)


def _wide(params: Params) -> Params:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)


def exact_gradient(
    model: SumOfTerms, params: Params, kT: float, grid: Bins, slope: np.ndarray
) -> tuple[np.ndarray, Params]:
    """The histogram of x (size,), and d(Σ L'_k ⟨h_k⟩)/dθ of the network by differentiating the quadrature.

    No covariance in it. slope (size,): L', held fixed.
    """
    x, width = nodes(-FAR_A, FAR_A)
    height = np.asarray(slope)[bin_of(x, grid)]
    with jax.enable_x64(True):
        wide, logs = _wide(params), jnp.asarray(np.log(width))

        def value(network: Params) -> tuple[Array, Array]:
            u = _energies(model, {**wide, NAME: network}, jnp.asarray(x))
            p = jax.nn.softmax(logs - u / kT)
            return jnp.sum(p * height), p

        gradient, p = jax.grad(value, has_aux=True)(wide[NAME])
        return binned(x, np.asarray(p), grid), jax.tree.map(np.asarray, gradient)


@dataclass(frozen=True)
class Problem:
    """What is refined. start: parameters of wall and network; points: that the model was fitted to."""

    model: SumOfTerms
    start: Params
    points: Points
    data: Sets
    target: Target
    kT: float
    cfg: Refine
    course: Course

    @property
    def simulator(self) -> Simulator:
        """Windows of all replicas, with the time step, friction and mass of the course."""
        replicas, course = self.cfg.replicas, self.course
        system = particles(replicas, course.mass)
        pack = Pack(system, unlimited(system), np.full(replicas, self.kT), slice(0, replicas))
        window, save = (units.from_fs(1000.0 * ps) for ps in (self.cfg.window_ps, self.cfg.save_every_ps))
        run = settings(window, save, course.dt, cutoff_A=0.0, max_chunk_frames=1000)
        return Simulator(self.model, [pack], course.integrator, run)

    def refinement(self) -> Refinement:
        """The loop of `cgrefine refine`, with this energy, target and force matching."""
        cfg, replicas = self.cfg, self.cfg.replicas
        every = slice(0, replicas)
        molecule = Molecule("particle", PARTICLE, self.kT / units.KB, every, every)
        objective = Objective(PARTICLE, [self.target], 1.0 / self.kT, cfg)
        forces = cfg.forces
        matching = Minibatches(
            self.model,
            self.start,
            self.data.training,
            self.data.validation,
            cfg.seed,
            forces.batch_beads,
            forces.mean_frames,
            forces.control_variate,
        )
        x = self.points.x
        reference = plane(x, np.zeros_like(x)).astype(np.float32)[:, None]
        learner = Learner(
            self.model, 0.0, [molecule], [objective], [reference], matching, (NAME,), self.start, cfg
        )
        simulator = self.simulator
        choice = Choice(int(cfg.burn_in_fraction * simulator.run.n_frames), 0, 0.0)
        rng = np.random.default_rng(cfg.seed)
        starts = reference[rng.integers(0, len(reference), replicas), 0]
        return Refinement(learner, simulator, starts, choice, Rules(0.0, 0, 0.0))


class Course1D(NamedTuple):
    """A refinement of w windows. params (w + 1): the start, and after each window; right (w + 1,): population
    of x ≥ 0 of each, by quadrature; loss (w,): of each window, NaN of one that nothing is learned from;
    force_error (w,): on held-out points after it, (kcal/mol/Å)²."""

    params: list[Params]
    right: np.ndarray
    loss: np.ndarray
    force_error: np.ndarray


def refined(loop: Refinement, problem: Problem, told: Callable[[Info], None]) -> Course1D:
    """Run the loop of the problem to its end."""
    state = loop.init()
    params, infos = [state.fit.params], []
    while Phase(int(state.counters.phase)) != Phase.DONE:
        state, info = loop.step(state)
        told(info)
        infos.append(info)
        params.append(state.fit.params)
    right = [known(problem.model, p, problem.kT).right() for p in params]
    name = problem.target.observable.name
    losses = [[u.losses["particle"][name] for u in info.updates] for info in infos]
    loss = np.array([one[0] if one else np.nan for one in losses])
    return Course1D(params, np.array(right), loss, np.array([info.error for info in infos]))


class Agreement(NamedTuple):
    """Estimated against exact derivatives. names: of the directions; exact, estimate, stderr (d,)."""

    names: tuple[str, ...]
    exact: np.ndarray
    estimate: np.ndarray
    stderr: np.ndarray

    @property
    def deviation(self) -> np.ndarray:
        """In standard errors."""
        return (self.estimate - self.exact) / self.stderr


def gradient_against_quadrature(
    problem: Problem, params: Params, window: Window, groups: int, burn_in: int
) -> Agreement:
    """The estimator's gradient on frames of a window at these parameters, along the exact one of each layer.

    The slope of the loss is that at the exact histogram, so that each group of replicas gives an unbiased
    estimate and their spread is the error of the mean. window: made with `params`, from any start; its first
    burn_in frames are left out.
    """
    observable, kT = problem.target.observable, problem.kT
    grid = observable.grid
    assert grid is not None
    histogram, _ = exact_gradient(problem.model, params, kT, grid, np.zeros(grid.size))
    slope = problem.target.slope(histogram)
    _, exact = exact_gradient(problem.model, params, kT, grid, slope)
    frames = window.positions[burn_in:]
    replicas = frames.shape[1] // groups * groups
    by_group = np.split(frames[:, :replicas], groups, axis=1)
    within = rooms.room([(PARTICLE, frames[:1, 0, None])], 0.0, CHUNK_BEADS)
    values = valuer([observable])
    rows = []
    for part in by_group:
        x = np.swapaxes(part, 0, 1).reshape(-1, 1, 3)
        replica = np.repeat(np.arange(part.shape[1]), len(part))
        h, p = values(x)[0], uniform_weights(np.ones(len(x), bool))
        n_eff = float(effective_sizes(projected(h, p, slope), p, replica).sum())
        a = coefficients(h, p, slope, 1.0 / kT, n_eff=n_eff)
        found = surrogate_gradient(problem.model, params, [Ensemble(PARTICLE, x, a)], 0.0, within=within)
        rows.append(_along(found[NAME], exact))
    estimates = np.array(rows)
    names = ("all parameters", *(f"layer {k + 1}" for k in range(len(exact))))
    stderr = estimates.std(axis=0, ddof=1) / np.sqrt(groups)
    return Agreement(names, _along(exact, exact), estimates.mean(axis=0), stderr)


def _along(gradient: Params, exact: Params) -> np.ndarray:
    """Projections of a gradient on the unit vectors of the exact one, and of that of each layer."""
    parts = [(_flat(one), _flat(other)) for one, other in zip(gradient, exact, strict=True)]
    whole = tuple(np.concatenate(side) for side in zip(*parts, strict=True))
    return np.array([g @ e / np.linalg.norm(e) for g, e in (whole, *parts)])


def _flat(tree: Params) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
