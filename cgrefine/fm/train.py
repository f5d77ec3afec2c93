"""Force matching of a network on top of priors, fixed or trained along: an init/step pair, and the epochs.

Nothing here reads or writes files: `fit` yields what happened in each epoch, with a snapshot from which
it can go on to exactly the same numbers.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from cgrefine import energy
from cgrefine.config.schema import Loader, Train
from cgrefine.data.frames import FrameSet
from cgrefine.data.loader import Decoys, Packed, Reading, each, sweep, training_batches
from cgrefine.data.packing import Batch, Budget, budget_for, estimated_batches
from cgrefine.energy import NetworkTerm, Params, SumOfTerms
from cgrefine.fm import loss, optimizers
from cgrefine.fm.priors.parameters import Scaling


class FitState(NamedTuple):
    """params: of the network; or of "network" and "priors" when these are trained as well, as z of a Scaling.

    opt_state: of the optimiser; step () int32: updates asked for so far.
    """

    params: Params
    opt_state: Any
    step: Array


class FitInfo(NamedTuple):
    """loss () (kcal/mol/Å)², decoys included; gradient_norm () before clipping."""

    loss: Array
    gradient_norm: Array


class ForceErrors(NamedTuple):
    """Mean squared force-component error of network and prior, prior alone, and no model, (kcal/mol/Å)²."""

    model: float
    prior: float
    zero: float


class Snapshot(NamedTuple):
    """Everything that training depends on after `epoch` epochs, as host arrays; seed gives the data order.

    best_params: those with the lowest validation error so far, which is best_mse, after best_epoch.
    """

    epoch: int
    seed: int
    state: FitState
    best_params: Params
    best_mse: float
    best_epoch: int


class Epoch(NamedTuple):
    """Log of one epoch; epoch 0 is the network before training. seconds_per_step leaves compilation out."""

    epoch: int
    steps: int
    train_loss: float
    gradient_norm: float
    learning_rate: float
    validation: ForceErrors
    seconds_per_step: float
    slots_used: float
    skipped: int
    snapshot: Snapshot


def force_matching(
    network: NetworkTerm, prior: SumOfTerms, optimizer: optax.GradientTransformationExtraArgs
) -> tuple[Callable[[Params], FitState], Callable[..., tuple[FitState, FitInfo]]]:
    """init(params) -> FitState, and step(state, batch, prior_params) -> (FitState, FitInfo)."""

    def of_network(batch: Batch, prior_params: Params) -> Callable[[Params], Array]:
        residual = loss.residual_forces(prior, prior_params, batch)
        return lambda params: loss.matching_loss(network, params, batch, residual)

    return _descending(of_network, optimizer)


def joint_matching(
    network: NetworkTerm,
    prior: SumOfTerms,
    scaling: Scaling,
    penalty: float,
    optimizer: optax.GradientTransformationExtraArgs,
) -> tuple[Callable[[Params], FitState], Callable[..., tuple[FitState, FitInfo]]]:
    """As `force_matching`, for params of "network" and "priors": see `loss.joint_loss`."""

    def of_both(batch: Batch, prior_params: Params) -> Callable[[Params], Array]:
        return lambda params: loss.joint_loss(network, prior, scaling, params, prior_params, batch, penalty)

    return _descending(of_both, optimizer)


def _descending(
    loss_of: Callable[[Batch, Params], Callable[[Params], Array]],
    optimizer: optax.GradientTransformationExtraArgs,
) -> tuple[Callable[[Params], FitState], Callable[..., tuple[FitState, FitInfo]]]:
    """init and step for loss_of(batch, prior_params), a function of the parameters."""

    def init(params: Params) -> FitState:
        return FitState(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    def step(state: FitState, batch: Batch, prior_params: Params) -> tuple[FitState, FitInfo]:
        value, gradient = jax.value_and_grad(loss_of(batch, prior_params))(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, value=value)
        params = optax.apply_updates(state.params, updates)
        return FitState(params, opt_state, state.step + 1), FitInfo(value, optax.tree.norm(gradient))

    return init, step


def _optimizer(
    settings: Train, rate: optax.Schedule, decaying: Callable[[Params], Any]
) -> optax.GradientTransformationExtraArgs:
    return optimizers.optimizer(
        settings.optimizer, rate, settings.learning_rate, settings.clip_norm, settings.weight_decay, decaying
    )


def parts(params: Params, prior_params: Params, scaling: Scaling | None) -> tuple[Params, Params]:
    """Parameters of the network and of the priors, from those of a FitState and those the fit began with."""
    if scaling is None:
        return params, prior_params
    return params["network"], scaling.params(prior_params, params["priors"])


def fit(
    network: NetworkTerm,
    prior: SumOfTerms,
    prior_params: Params,
    training: FrameSet,
    validation: FrameSet,
    settings: Train,
    loader: Loader,
    start: Snapshot | None = None,
    scaling: Scaling | None = None,
) -> Iterator[Epoch]:
    """Train the network in float32, yielding each epoch; the last snapshot holds the best parameters.

    scaling: given when the priors are trained as well, held by settings.prior_penalty; see `parts`. Both
    sets must have their edges within the longest cutoff of network and prior. Raises InputError when a set
    is empty or a frame exceeds settings.batch_beads. The learning rate follows the estimated number of
    steps, and stays at its end when there are a few more.
    """
    budget = budget_for([training, validation], settings.batch_beads, loader.edge_headroom)
    reading = Reading(loader.buffer_frames, loader.prefetch, loader.workers)
    decoys = Decoys(settings.decoy_fraction, settings.decoy_noise_A, settings.decoy_weight)
    per_epoch = estimated_batches(training, budget, decoys.fraction, loader.buffer_frames)
    rate = optimizers.schedule(settings.learning_rate, per_epoch * settings.epochs, settings.warmup_fraction)
    prior_params = single(prior_params)
    if scaling is None:
        optimizer = _optimizer(settings, rate, optimizers.matrices)
        init, step = force_matching(network, prior, optimizer)
    else:
        optimizer = _optimizer(settings, rate, of_the_network)
        init, step = joint_matching(network, prior, scaling, settings.prior_penalty, optimizer)
    advance = jax.jit(step, donate_argnums=0)
    measure = validator(network, prior, validation, budget, reading)

    if start is None:
        params = single(network.init(jax.random.key(settings.seed)))
        if scaling is not None:
            params = {"network": params, "priors": scaling.zeros(prior_params, jnp.float32)}
        state = init(params)
        errors = measure(*parts(state.params, prior_params, scaling))
        snapshot = Snapshot(0, settings.seed, on_host(state), on_host(state.params), errors.model, 0)
        yield Epoch(0, 0, math.nan, math.nan, 0.0, errors, math.nan, math.nan, 0, snapshot)
    else:
        snapshot = start
        state = jax.tree.map(jnp.array, start.state)
    for epoch in range(snapshot.epoch + 1, settings.epochs + 1):
        made = each(training_batches(training, budget, settings.seed, epoch, decoys, reading))
        state, infos, slots_used, seconds = _one_epoch(advance, state, made, prior_params)
        errors = measure(*parts(state.params, prior_params, scaling))
        snapshot = _advanced(snapshot, epoch, state, errors.model)
        yield _log(epoch, infos, rate, errors, seconds, slots_used, snapshot)


def validator(
    network: NetworkTerm, prior: SumOfTerms, frames: FrameSet, budget: Budget, reading: Reading
) -> Callable[[Params, Params], ForceErrors]:
    """measure(params, prior_params) -> ForceErrors over all the frames, compiled once."""
    batches = sweep(frames, budget, reading)

    @jax.jit
    def squares(params: Params, prior_params: Params, batch: Batch) -> Array:
        x = jnp.asarray(batch.positions)
        residual = loss.residual_forces(prior, prior_params, batch)
        correction = energy.forces(network, params, x, batch.system, batch.neighbors)
        zero = jnp.zeros_like(x)
        pairs = ((correction, residual), (zero, residual), (zero, batch.target_forces))
        return jnp.stack([loss.force_mse(f, target, batch.weight) for f, target in pairs])

    def measure(params: Params, prior_params: Params) -> ForceErrors:
        total, beads = np.zeros(3), 0
        for _, batch in each(batches):
            count = int(batch.system.bead_mask.sum())
            total += count * np.asarray(squares(params, prior_params, batch), np.float64)
            beads += count
        return ForceErrors(*(total / beads).tolist())

    return measure


def of_the_network(params: Params) -> Params:
    """What decays: matrices of the network, no parameter of the priors, which their penalty holds."""
    fixed = jax.tree.map(lambda leaf: False, params["priors"])
    return {"network": optimizers.matrices(params["network"]), "priors": fixed}


def single(params: Params) -> Params:
    """Parameters as float32 jax arrays."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def on_host(tree: Any) -> Any:
    """A copy in host memory, which the donated buffers of later steps cannot change."""
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)


def _one_epoch(
    advance: Callable[..., tuple[FitState, FitInfo]],
    state: FitState,
    made: Iterator[Packed],
    prior_params: Params,
) -> tuple[FitState, list[FitInfo], float, float]:
    """All steps of an epoch; the share of edge slots that hold an edge; and seconds per step.

    The first step, which may compile, is left out of the time.
    """
    infos: list[FitInfo] = []
    used, begin, first = 0.0, time.perf_counter(), math.nan
    for _, batch in made:
        used += float(np.mean(batch.neighbors.edge_mask))
        state, info = advance(state, batch, prior_params)
        infos.append(info)
        if len(infos) == 1:
            jax.block_until_ready(state)
            first, begin = time.perf_counter() - begin, time.perf_counter()
    jax.block_until_ready(state)
    rest = time.perf_counter() - begin
    return state, infos, used / len(infos), rest / (len(infos) - 1) if len(infos) > 1 else first


def _advanced(before: Snapshot, epoch: int, state: FitState, mse: float) -> Snapshot:
    host = on_host(state)
    if mse < before.best_mse:
        return Snapshot(epoch, before.seed, host, host.params, mse, epoch)
    return before._replace(epoch=epoch, state=host)


def _log(
    epoch: int,
    infos: list[FitInfo],
    rate: optax.Schedule,
    errors: ForceErrors,
    seconds: float,
    slots_used: float,
    snapshot: Snapshot,
) -> Epoch:
    return Epoch(
        epoch=epoch,
        steps=len(infos),
        train_loss=float(np.mean([float(info.loss) for info in infos])),
        gradient_norm=float(np.mean([float(info.gradient_norm) for info in infos])),
        learning_rate=float(np.asarray(rate(int(snapshot.state.step) - 1))),
        validation=errors,
        seconds_per_step=seconds,
        slots_used=slots_used,
        skipped=optimizers.skipped(snapshot.state.opt_state),
        snapshot=snapshot,
    )
