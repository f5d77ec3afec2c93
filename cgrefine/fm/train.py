"""Force matching of a network on top of priors, fixed or trained along: optimisations, epochs and updates.

Nothing here reads or writes files: `fit` yields what happened after each update and each epoch, with a
snapshot from which it can go on to exactly the same numbers.

An epoch is a fixed number of updates, about as many as it takes to see each frame once: the streams of
batches go on from one epoch of frames to the next, so that no batch is half empty and no device waits for
another at an epoch's end, and the learning rate knows its number of updates.
"""

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cgrefine.config.data import Loader
from cgrefine.config.training import Optimisation, Train
from cgrefine.data.frames import FrameSet
from cgrefine.data.loader import Decoys, Noising, Reading, Recipe
from cgrefine.data.packing import Budget, budget_for, estimated_batches
from cgrefine.energy import Fitted, Params, SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm import lanes, optimizers
from cgrefine.fm.clock import Clock
from cgrefine.fm.devices import everywhere, mesh_of
from cgrefine.fm.priors.parameters import Scaling
from cgrefine.fm.step import (
    Advance,
    FitInfo,
    FitState,
    Matching,
    Tally,
    compiled,
    empty_tally,
    noise_scale,
    parts,
)
from cgrefine.fm.validation import ForceErrors, validator
from cgrefine.fm.weighting import weighting

HOPELESS_UPDATES = 50
"""Updates in a row without a finite gradient, after which training ends."""

HOPELESS_ERROR = 100.0
"""Times the error of no model, beyond which training ends."""


class EpochLog(NamedTuple):
    """One epoch; the first is the network before training, without updates. Numbers of updates are means.

    stage: number of the optimisation; updates, skipped: in this epoch; noise_scale: beads, see
    `step.noise_scale`; unusable: share of the beads seen that are in frames whose forces are not finite.
    seconds: an update, without compilation; waiting: share of them in which devices waited for batches.
    """

    epoch: int
    stage: int
    updates: int
    skipped: int
    train_loss: float
    gradient_norm: float
    learning_rate: float
    noise_scale: float
    validation: ForceErrors
    slots_used: float
    unusable: float
    seconds: float
    waiting: float


class Progress(NamedTuple):
    """Where a fit is, as plain numbers. epoch: ended; stage: of the next update; updates: in this epoch.

    stage_epochs: epochs ended in this optimisation; stale: of these, since the lowest validation error;
    wait: of these, since then or since a plateau lowered the rate; best_mse, best_epoch: lowest validation
    error; lanes: states of the streams; log: of all epochs that ended.
    """

    epoch: int
    stage: int
    stage_epochs: int
    updates: int
    seed: int
    stale: int
    wait: int
    best_mse: float
    best_epoch: int
    lanes: tuple[str, ...]
    log: tuple[EpochLog, ...]


class Snapshot(NamedTuple):
    """Everything that training depends on, as host arrays; best: the parameters of progress.best_epoch."""

    progress: Progress
    state: FitState
    best: Params


@dataclass(frozen=True)
class Event:
    """After an update (log None) or an epoch. info: of the update before the last one, if in this epoch.

    updates: of a whole epoch; stopped: a process asked for an end, and this is the last event. snapshot():
    valid until the next event; a collective call.
    """

    progress: Progress
    info: FitInfo | None
    log: EpochLog | None
    updates: int
    stopped: bool
    snapshot: Callable[[], Snapshot]


@dataclass(frozen=True)
class Task:
    """What is fitted to what. scaling: given when the priors are trained as well, see `parts`."""

    network: Fitted
    prior: SumOfTerms
    prior_params: Params
    training: FrameSet
    validation: FrameSet
    scaling: Scaling | None = None


def never() -> bool:
    """No process asks for an end."""
    return False


def fit(
    task: Task,
    settings: Train,
    loader: Loader,
    start: Snapshot | None = None,
    mesh: Mesh | None = None,
    stopping: Callable[[], bool] = never,
) -> Iterator[Event]:
    """Train the network in float32, with an event after each update and epoch, the first before any.

    Both sets must have their edges within the longest cutoff of network and prior. mesh: by default all
    devices of all processes. stopping: asked at each update; when it is true in any process, all of them end
    after the same update. Raises InputError when a set is empty, a frame exceeds settings.batch_beads, the
    lanes do not fit the devices or frames, or training diverges.
    """
    mesh = mesh_of() if mesh is None else mesh
    budget = budget_for([task.training, task.validation], settings.batch_beads, loader.edge_headroom)
    reading = Reading(loader.buffer_frames, loader.prefetch, loader.workers)
    # a run that goes on keeps its lanes, whatever devices there are now
    asked = settings.batches_per_update if start is None else len(start.progress.lanes)
    count = lanes.n_lanes(asked, mesh.size)
    batches = estimated_batches(task.training, budget, settings.decoy_fraction, loader.buffer_frames)
    recipe = _recipe(task, settings, budget)
    prior_params = everywhere(on_host(single(task.prior_params)), mesh)
    measure = validator(task.network, task.prior, task.validation, budget, reading)
    run = _Run(
        task=task,
        settings=settings,
        mesh=mesh,
        prior_params=prior_params,
        measure=lambda state: measure(*parts(shown(state), prior_params, task.scaling)),
        updates=max(round(batches / count), 1),
        beads=budget.beads * count,
    )
    course = (
        _at_start(run) if start is None else Snapshot(start.progress, run.placed(start.state), start.best)
    )
    states = course.progress.lanes or None
    with lanes.opened(
        task.training, budget, course.progress.seed, recipe, reading, count, mesh, states, stopping
    ) as streams:
        if start is None:
            yield Event(
                course.progress,
                None,
                course.progress.log[-1],
                run.updates,
                False,
                _snapshot(course, streams),
            )
        while course.progress.stage < len(settings.optimisations):
            stage = course.progress.stage
            matching = _matching(run, settings.optimisations[stage])
            if stage > 0 and course.progress.stage_epochs == 0 and course.progress.updates == 0:
                course = course._replace(state=run.placed(on_host(matching.begin(course.state))))
            advance = compiled(matching)
            while course.progress.stage == stage:
                course, stopped = yield from _epoch(run, course, streams, advance)
                if stopped:
                    return


@dataclass(frozen=True)
class _Run:
    """What stays the same during a fit. updates: of an epoch; beads: room in the batches of an update."""

    task: Task
    settings: Train
    mesh: Mesh
    prior_params: Params
    measure: Callable[[FitState], ForceErrors]
    updates: int
    beads: int

    def placed(self, tree: Any) -> Any:
        """On all devices."""
        return everywhere(tree, self.mesh)


def _epoch(
    run: _Run, course: Snapshot, streams: lanes.Streams, advance: Advance
) -> Generator[Event, None, tuple[Snapshot, bool]]:
    """The rest of an epoch: events, and at last where the fit is and whether a process asked for an end."""
    optimisation = run.settings.optimisations[course.progress.stage]
    clock, before, useless = Clock(), None, 0
    while course.progress.updates < run.updates:
        state, info = advance(course.state, clock.fetched(streams.next), run.prior_params)
        clock.updated(state.step)
        progress = course.progress._replace(updates=course.progress.updates + 1)
        course = course._replace(progress=progress, state=state)
        # of the update before: its numbers are there without waiting for this one
        stop = before is not None and float(before.stop) > 0.0
        useless = useless + 1 if before is not None and not math.isfinite(float(before.loss)) else 0
        if useless >= HOPELESS_UPDATES:
            raise InputError(
                _hopeless(f"{useless} updates in a row had no finite gradient", course, optimisation)
            )
        if stop or progress.updates < run.updates:
            yield Event(progress, before, None, run.updates, stop, _snapshot(course, streams))
        if stop:
            return course, True
        before = info
    errors = run.measure(course.state)
    # an epoch that is gone on with has updates left
    assert before is not None
    log = _logged(course, errors, float(before.rate), clock)
    if problem := _problem(log):
        raise InputError(_hopeless(problem, course, optimisation))
    course = _after_epoch(run, course, log)
    yield Event(course.progress, before, log, run.updates, False, _snapshot(course, streams))
    return course, False


def _at_start(run: _Run) -> Snapshot:
    """The untrained network, and its errors."""
    task, settings = run.task, run.settings
    params = single(task.network.init(jax.random.key(settings.seed)))
    if task.scaling is not None:
        params = {"network": params, "priors": task.scaling.zeros(task.prior_params, jnp.float32)}
    state = run.placed(on_host(_matching(run, settings).init(params)))
    errors = run.measure(state)
    nan = math.nan
    log = EpochLog(0, 0, 0, 0, nan, nan, nan, nan, errors, nan, nan, nan, nan)
    progress = Progress(0, 0, 0, 0, settings.seed, 0, 0, errors.model, 0, (), (log,))
    return Snapshot(progress, state, on_host(shown(state)))


def _snapshot(course: Snapshot, streams: lanes.Streams) -> Callable[[], Snapshot]:
    def taken() -> Snapshot:
        progress = course.progress._replace(lanes=tuple(streams.states()))
        return Snapshot(progress, on_host(course.state), course.best)

    return taken


def _matching(run: _Run, optimisation: Optimisation) -> Matching:
    rate = optimizers.schedule(optimisation, run.updates * optimisation.epochs)
    task = run.task
    return Matching(task.network, task.prior, run.settings, optimisation, rate, run.mesh, task.scaling)


def _recipe(task: Task, settings: Train, budget: Budget) -> Recipe:
    decoys = Decoys(settings.decoy_fraction, settings.decoy_noise_A, settings.decoy_weight)
    denoise = settings.loss.denoise
    noising = None if denoise is None else Noising(denoise.noise_A, denoise.force_share)
    if settings.loss.energy_weight > 0.0 and all(d.energies is None for d in task.training.domains):
        raise InputError(
            "train.loss.energy_weight: no training protein has energies; only data.coarse can give them"
        )
    prior_params = single(task.prior_params)
    weights = weighting(task.training, settings.loss, task.prior, prior_params, budget)
    return Recipe(decoys, noising, weights)


def _after_epoch(run: _Run, course: Snapshot, log: EpochLog) -> Snapshot:
    """The next epoch's start: the lowest error, the rate of a plateau, the end of an optimisation."""
    progress, state, best = course
    optimisation = run.settings.optimisations[progress.stage]
    better = log.validation.model < progress.best_mse
    progress = progress._replace(
        epoch=progress.epoch + 1,
        stage_epochs=progress.stage_epochs + 1,
        updates=0,
        stale=0 if better else progress.stale + 1,
        wait=0 if better else progress.wait + 1,
        log=(*progress.log, log),
    )
    if better:
        best = on_host(shown(state))
        progress = progress._replace(best_mse=log.validation.model, best_epoch=progress.epoch)
    if optimisation.schedule == "plateau" and progress.wait >= optimisation.plateau_epochs:
        lower = on_host(state.scale) * np.float32(optimisation.plateau_factor)
        state, progress = state._replace(scale=run.placed(lower)), progress._replace(wait=0)
    early = optimisation.early_stop_epochs
    if progress.stage_epochs == optimisation.epochs or (early is not None and progress.stale >= early):
        progress = progress._replace(stage=progress.stage + 1, stage_epochs=0, stale=0, wait=0)
    return Snapshot(progress, state._replace(tally=run.placed(on_host(empty_tally()))), best)


def _logged(course: Snapshot, errors: ForceErrors, rate: float, clock: Clock) -> EpochLog:
    """The epoch that ended, rate: of its last update."""
    progress, state, _ = course
    tally = {name: float(value) for name, value in zip(Tally._fields, on_host(state.tally), strict=True)}

    def mean(name: str, count: str) -> float:
        return tally[name] / tally[count] if tally[count] else math.nan

    beads = tally["beads"] / max(tally["tried"], 1.0)
    seconds, waiting = clock.read()
    return EpochLog(
        epoch=progress.epoch + 1,
        stage=progress.stage,
        updates=int(tally["tried"]),
        skipped=int(tally["tried"] - tally["updates"]),
        train_loss=mean("loss", "updates"),
        gradient_norm=mean("gradient_norm", "updates"),
        learning_rate=rate,
        noise_scale=noise_scale(mean("square", "updates"), mean("product", "pairs"), beads),
        validation=errors,
        slots_used=mean("edges", "tried"),
        unusable=tally["unusable"] / max(tally["beads"], 1.0),
        seconds=seconds,
        waiting=waiting,
    )


def _problem(log: EpochLog) -> str | None:
    """Why it is no use to go on after this epoch, if it is not."""
    if log.skipped == log.updates:
        return f"none of the {log.updates} updates of epoch {log.epoch} had a finite gradient"
    errors = log.validation
    if not errors.model < HOPELESS_ERROR * errors.zero:
        return (
            f"after epoch {log.epoch} the validation error is {errors.model:.3g} (kcal/mol/Å)², that of no "
            f"model {errors.zero:.3g}"
        )
    return None


def _hopeless(problem: str, course: Snapshot, optimisation: Optimisation) -> str:
    return (
        f"train: {problem}: training has diverged in optimisation {course.progress.stage + 1}. Lower "
        f"learning_rate (now {optimisation.learning_rate:g}) or clip_norm ({optimisation.clip_norm:g}), or "
        "look for frames that do not belong there with `cgrefine inspect`"
    )


def shown(state: FitState) -> Params:
    """The parameters that are validated and saved: their average where there is one."""
    return state.average if jax.tree.leaves(state.average) else state.params


def like(task: Task, settings: Train, progress: Progress) -> tuple[FitState, Params]:
    """Zeros of the shapes of the state and the best parameters of a snapshot."""
    mesh = mesh_of(jax.local_devices()[:1])
    # between two optimisations the state is still that of the first
    begun = progress.stage_epochs > 0 or progress.updates > 0 or progress.stage == 0
    optimisation = settings.optimisations[progress.stage if begun else progress.stage - 1]

    def made() -> tuple[FitState, Params]:
        params = single(task.network.init(jax.random.key(0)))
        if task.scaling is not None:
            params = {"network": params, "priors": task.scaling.zeros(task.prior_params, jnp.float32)}
        rate = optimizers.schedule(optimisation, 1)
        matching = Matching(task.network, task.prior, settings, optimisation, rate, mesh, task.scaling)
        return matching.init(params), params

    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(made))


def single(params: Params) -> Params:
    """Parameters as float32 jax arrays."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def on_host(tree: Any) -> Any:
    """A copy in host memory, which the donated buffers of later steps cannot change."""
    return jax.tree.map(_copied, tree)


def _copied(leaf: Any) -> np.ndarray:
    there = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    return np.array(leaf.addressable_data(0) if there else leaf, copy=True)
