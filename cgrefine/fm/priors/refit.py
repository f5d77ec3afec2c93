"""Force matching of the prior parameters alone, by LBFGS over all frames at once.

    L(z) = Σ |F - F(θ(z))|² / Σ |F|² + penalty · mean z²

over the force components of the chosen frames, with z of `parameters`: deviations from the inverted values,
which the penalty holds as a Gaussian prior. The iterations run in u = z √h, h the estimated diagonal of the
Hessian at the start, which brings bonds and dihedrals to one scale: near the optimum, the loss is above it by
about the square of the gradient by u. Everything is in float64, whatever the default of the process:
near the optimum the loss, mostly noise of the forces, changes by less than float32 resolves, and the line
search would stop there. LBFGS with zoom line search: Nocedal & Wright, Numerical Optimization, algorithms
3.5, 3.6 and 7.5 (optax.lbfgs).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from cgrefine.config.priors import Refit
from cgrefine.data.frames import FrameSet, frame_set, thinned
from cgrefine.data.store import Domain
from cgrefine.energy import Params, SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm import snapshots
from cgrefine.fm.devices import mesh_of
from cgrefine.fm.priors import full_batch, parameters
from cgrefine.fm.priors.full_batch import FullBatch
from cgrefine.fm.priors.parameters import Scaling
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.units import thermal_energy

MEMORY = 20
"""Steps that LBFGS remembers."""

LINE_SEARCH_STEPS = 30
SNAPSHOT_EVERY = 5

Reason = Literal["gradient_norm", "plateau", "max_steps", "not_finite"]


class Iteration(NamedTuple):
    """After `iteration` updates: loss = force + penalty (relative to the mean squared force, see above).

    gradient_norm: by u; step_size: of the line search; evaluations: of loss and gradient in this iteration.
    Iteration 0 is the start.
    """

    iteration: int
    loss: float
    force: float
    penalty: float
    gradient_norm: float
    step_size: float
    evaluations: int


class Snapshot(NamedTuple):
    """What the iterations depend on, as host arrays.

    log (max_steps + 1, 6): fields of Iteration but the first, of all iterations so far; nan beyond.
    problem (3,): penalty, loss and gradient norm at the start, which tell one fit from another.
    """

    iteration: int
    u: Params
    opt_state: Any
    log: np.ndarray
    problem: np.ndarray


class Refitted(NamedTuple):
    """params: of all terms, those that were not refitted unchanged. log: every iteration from the start.

    reason: why it ended; force_mse: (kcal/mol/Å)², before and after; frames: that were matched.
    """

    params: dict[str, dict[str, np.ndarray]]
    log: tuple[Iteration, ...]
    reason: Reason
    force_mse: tuple[float, float]
    frames: int

    @property
    def converged(self) -> bool:
        """Whether it ended at an optimum, and not at max_steps or at a number that is not finite."""
        return self.reason in ("gradient_norm", "plateau")


class Task(NamedTuple):
    """What an objective is computed from, arrays. fitted: parameters at z = 0 of the terms that are fitted;

    widths: of z, like u: z = widths · u; penalty (): see Refit.
    """

    full: FullBatch
    fitted: Params
    widths: Params
    penalty: Array


@dataclass(frozen=True)
class Objective:
    """L as a function of u and a task. Equal objectives are equally hashed and share compilations."""

    model: SumOfTerms
    scales: Scaling
    mesh: Mesh

    def __call__(self, u: Params, task: Task) -> tuple[Array, tuple[Array, Array]]:
        """L, and its parts: the force error and the penalty."""
        z = jax.tree.map(jnp.multiply, task.widths, u)
        force: Any = full_batch.misfit(self.model, self.mesh, self.params(z, task.fitted), task.full)
        penalty = task.penalty * parameters.mean_square(z)
        return force + penalty, (force, penalty)

    def params(self, z: Params, fitted: Params) -> Params:
        """Parameters of the model at z."""
        return jax.tree.map(jnp.asarray, self.scales.params(fitted, z))


class Problem(NamedTuple):
    """params: of all terms, at the start; those that are not fitted are in the task's target forces."""

    objective: Objective
    task: Task
    params: dict[str, dict[str, np.ndarray]]

    def params_at(self, u: Params) -> dict[str, dict[str, np.ndarray]]:
        """All prior parameters at u, float64."""
        with jax.enable_x64(True):
            z = jax.tree.map(jnp.multiply, self.task.widths, u)
            return jax.tree.map(np.asarray, self.objective.scales.params(self.params, z))


def refit(
    facts: Mapping[str, Any],
    params: parameters.Terms,
    domains: Sequence[Domain],
    settings: Refit,
    temperature_K: float,
    folder: Path | None = None,
    devices: Sequence[Any] | None = None,
) -> Refitted:
    """Refit settings.terms of the priors to the training forces of the domains at their temperature.

    facts, params: see terms.prior_terms. folder: of snapshots, from which an interrupted refit of the same
    problem goes on; None keeps none. devices: all, if not given. Raises InputError on a term that is not
    there, without frames, and when the snapshots are of another fit.
    """
    frames = chosen_frames(facts, domains, settings.max_frames, temperature_K)
    problem = posed(facts, params, frames, settings, temperature_K, mesh_of(devices))
    start = begun(problem, settings)
    if folder is None:
        return _ended(problem, [start, *descent(problem, settings, start)], settings, len(frames))
    kept = snapshots.newest(folder, like=lambda facts: start)
    found = None if kept is None else kept[0]
    if found is not None and not np.allclose(found.problem, start.problem, rtol=1e-8, atol=0.0):
        raise InputError(f"{folder}: its snapshots are of another refit (penalty, frames or start differ)")
    course = [start if found is None else found]
    with snapshots.snapshots(folder, keep=1) as manager:
        for snapshot in descent(problem, settings, course[0]):
            course = [course[-1], snapshot]
            if snapshot.iteration % SNAPSHOT_EVERY == 0:
                snapshots.put(manager, snapshot.iteration, snapshot, {})
    return _ended(problem, course, settings, len(frames))


def chosen_frames(
    facts: Mapping[str, Any], domains: Sequence[Domain], most: int, temperature_K: float
) -> FrameSet:
    """At most `most` training frames at the priors' temperature, evenly strided: forces depend on it."""
    cutoff_A = SumOfTerms(prior_terms(facts)).cutoff_A
    frames = frame_set(domains, False, cutoff_A, temperatures_K=[temperature_K])
    if len(frames) == 0:
        raise InputError(f"priors.refit: there is no training frame at {temperature_K:g} K")
    return thinned(frames, most)


def posed(
    facts: Mapping[str, Any],
    params: parameters.Terms,
    frames: FrameSet,
    settings: Refit,
    temperature_K: float,
    mesh: Mesh,
) -> Problem:
    """The objective and the frames it is computed on, with the forces of the other terms subtracted.

    Raises InputError on a term that is not there, and on forces that are not finite or all zero.
    """
    model = SumOfTerms(prior_terms(facts))
    names = [term.name for term in model.terms]
    if unknown := [name for name in settings.terms if name not in names]:
        raise InputError(f"priors.refit.terms: there is no prior term {unknown}; choose from {names}")
    fitted = model.only(tuple(settings.terms))
    others = model.only(tuple(name for name in names if name not in settings.terms))
    own = {"terms": [entry for entry in facts["terms"] if entry["name"] in settings.terms]}
    scales = parameters.scaling(own, params, thermal_energy(temperature_K))
    start = {name: {k: np.asarray(v, np.float64) for k, v in params[name].items()} for name in names}
    moving = {term.name: start[term.name] for term in fitted.terms}
    objective = Objective(fitted, scales, mesh)
    with jax.enable_x64(True):
        rest = {term.name: start[term.name] for term in others.terms}
        full = full_batch.gathered(frames, others, rest, fitted.cutoff_A > 0, mesh)
        if not 0.0 < float(full.squares) < math.inf:
            raise InputError(
                f"priors.refit: the forces of the {len(frames)} chosen frames have a sum of squares of "
                f"{float(full.squares):g}: it must be above 0 and finite"
            )
        task = Task(full, moving, scales.zeros(start, jnp.float64), jnp.asarray(settings.penalty))
        return Problem(objective, task._replace(widths=scaled_widths(objective, task)), start)


def begun(problem: Problem, settings: Refit, z: Params | None = None) -> Snapshot:
    """Before the first iteration, at z (default: the inverted values)."""
    with jax.enable_x64(True):
        widths = problem.task.widths
        u = jax.tree.map(jnp.zeros_like, widths) if z is None else jax.tree.map(jnp.divide, z, widths)
        state, row = _first(problem.objective, u, problem.task)
        log = np.full((settings.max_steps + 1, len(row)), np.nan)
        log[0] = np.asarray(row)
        return _on_host(Snapshot(0, u, state, log, np.asarray([settings.penalty, log[0, 0], log[0, 3]])))


def descent(problem: Problem, settings: Refit, start: Snapshot) -> Iterator[Snapshot]:
    """LBFGS on from a snapshot, with another one after each iteration, until `ending` gives a reason.

    The same snapshot gives the same numbers, bit for bit.
    """
    snapshot = start
    while ending(snapshot.log[: snapshot.iteration + 1], settings) is None:
        with jax.enable_x64(True):
            u, state, row = _step(problem.objective, snapshot.u, snapshot.opt_state, problem.task)
            log = snapshot.log.copy()
            log[snapshot.iteration + 1] = np.asarray(row)
            snapshot = _on_host(Snapshot(snapshot.iteration + 1, u, state, log, snapshot.problem))
        yield snapshot


@partial(jax.jit, static_argnums=0)
def scaled_widths(objective: Objective, task: Task) -> Params:
    """1/√h of every z at the start; task.widths hold zeros of its shapes."""
    z, count = task.widths, sum(leaf.size for leaf in jax.tree.leaves(task.widths))
    half = full_batch.curvature(
        objective.model, objective.mesh, lambda z: objective.params(z, task.fitted), z, task.full
    )
    return jax.tree.map(lambda h: 1.0 / jnp.sqrt(2.0 * (h + task.penalty / count)), half)


@partial(jax.jit, static_argnums=0)
def _first(objective: Objective, u: Params, task: Task) -> tuple[Any, Array]:
    """The state of the optimiser before its first step, and the first row of the log."""
    (value, (force, penalty)), gradient = jax.value_and_grad(objective, has_aux=True)(u, task)
    state: Any = _optimizer().init(u)
    norm = optax.tree.norm(gradient)
    row = jnp.stack([value, force, penalty, norm, jnp.zeros_like(norm), jnp.ones_like(norm)])
    return (*state[:-1], state[-1]._replace(value=value, grad=gradient)), row


@partial(jax.jit, static_argnums=0)
def _step(objective: Objective, u: Params, state: Any, task: Task) -> tuple[Params, Any, Array]:
    """One step of LBFGS: u, the state of the optimiser, and a row of the log."""
    line = state[-1]
    updates, state = _optimizer().update(
        line.grad, state, u, value=line.value, grad=line.grad, value_fn=lambda at: objective(at, task)[0]
    )
    u, line = optax.apply_updates(u, updates), state[-1]
    penalty = task.penalty * parameters.mean_square(jax.tree.map(jnp.multiply, task.widths, u))
    evaluations = line.info.num_linesearch_steps.astype(penalty.dtype)
    norm = optax.tree.norm(line.grad)
    row = [line.value, line.value - penalty, penalty, norm, line.learning_rate, evaluations]
    return u, state, jnp.stack(row)


def ending(log: np.ndarray, settings: Refit) -> Reason | None:
    """Why the iterations with these rows of `Snapshot.log` are at their end, or None when they go on."""
    done, (loss, _, _, norm, _, _) = len(log) - 1, log[-1]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return "not_finite"
    if done >= settings.min_steps:
        if norm < settings.gradient_norm:
            return "gradient_norm"
        back = done - settings.plateau_steps
        if back >= 0 and log[back, 0] - loss < settings.plateau_gain * abs(loss):
            return "plateau"
    return "max_steps" if done >= settings.max_steps else None


def _optimizer() -> optax.GradientTransformationExtraArgs:
    search = optax.scale_by_zoom_linesearch(LINE_SEARCH_STEPS, initial_guess_strategy="one")
    return optax.lbfgs(memory_size=MEMORY, linesearch=search)


def _on_host(snapshot: Snapshot) -> Snapshot:
    """A copy in host memory."""
    copied = jax.tree.map(lambda leaf: np.array(leaf, copy=True), snapshot)
    return copied._replace(iteration=int(snapshot.iteration))


def _ended(problem: Problem, course: Sequence[Snapshot], settings: Refit, frames: int) -> Refitted:
    """The result: the parameters of the last iteration of finite loss (the line search never goes up)."""
    last = course[-1]
    rows = last.log[: last.iteration + 1]
    reason = ending(rows, settings)
    assert reason is not None
    finite = [s for s in course if np.isfinite(s.log[s.iteration, 0])]
    params = problem.params_at(finite[-1].u) if finite else problem.params
    log = tuple(Iteration(k, *map(float, row[:-1]), evaluations=int(row[-1])) for k, row in enumerate(rows))
    unit = float(problem.task.full.squares) / float(problem.task.full.components)
    after = [entry.force for entry in log if math.isfinite(entry.force)] or [math.nan]
    return Refitted(params, log, reason, (unit * log[0].force, unit * after[-1]), frames)
