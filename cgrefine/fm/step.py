"""One update of force matching over all devices: an init/step pair.

Each device takes its packed batches one after another and adds up gradients of the summed error; the sums
of all devices are joined and divided by the weights of all beads, so the loss is a mean over beads, not over
batches or devices. The update itself is computed everywhere, from the same numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from cgrefine.config.training import Optimisation, Train
from cgrefine.data.packing import Batch
from cgrefine.energy import Fitted, Params, SumOfTerms
from cgrefine.fm import loss, optimizers
from cgrefine.fm.devices import AXIS, EVERYWHERE, SHARED, on_all
from cgrefine.fm.loss import Sums
from cgrefine.fm.priors.parameters import Scaling


class Tally(NamedTuple):
    """Sums over an epoch, () float32. updates: those with a finite gradient; over these loss, gradient_norm
    (before clipping) and square, |g|². product: g·g', g' the gradient of the update before, over `pairs`.

    tried: all updates; edges: share of edge slots in use; beads: real ones; unusable: of these, in frames
    whose forces are not finite.
    """

    tried: Array
    updates: Array
    loss: Array
    gradient_norm: Array
    square: Array
    pairs: Array
    product: Array
    edges: Array
    beads: Array
    unusable: Array


class FitState(NamedTuple):
    """params: of the network; or of "network" and "priors" when these are trained as well, as z of a Scaling.

    average: their exponential average, () without one; opt_state: of the optimiser; gradient: the last one,
    zero if it was not finite; step () int32: updates of this optimisation so far; updates () int32: of all;
    scale (): a plateau's factors of the learning rate; tally: of the epoch.
    """

    params: Params
    average: Params
    opt_state: Any
    gradient: Params
    step: Array
    updates: Array
    scale: Array
    tally: Tally


class FitInfo(NamedTuple):
    """loss () (kcal/mol/Å)², decoys included; gradient_norm () before clipping; rate (): of this update.

    stop (): batches of processes that ask for an end.
    """

    loss: Array
    gradient_norm: Array
    rate: Array
    stop: Array


class Lanes(NamedTuple):
    """b packed batches of an update along a first axis, which the devices share; stop (b,): see FitInfo."""

    batches: Batch
    stop: Array | np.ndarray


class Seen(NamedTuple):
    """What the batches of an update hold: see Tally and FitInfo."""

    edges: Array
    beads: Array
    unusable: Array
    stop: Array


@dataclass(frozen=True)
class Matching:
    """What is fitted, and how an update is made. priors: of fixed parameters, or trained too (scaling given).

    rate: the learning rate by update.
    """

    network: Fitted
    prior: SumOfTerms
    settings: Train
    optimisation: Optimisation
    rate: optax.Schedule
    mesh: Mesh
    scaling: Scaling | None = None

    def sums(self, params: Params, prior_params: Params, batch: Batch) -> Sums:
        """Error and weight of one batch."""
        settings = self.settings
        with jax.default_matmul_precision(settings.precision):
            own, fixed = parts(params, prior_params, self.scaling)
            found = loss.predicted(self.network, self.prior, own, fixed, batch)
            error = loss.matching_squares(found, batch, settings.loss.huber_kcal_mol_A)
            if self.scaling is not None:
                error += loss.restraint(params["priors"], batch, settings.prior_penalty)
            if settings.loss.energy_weight > 0.0:
                # sums are over three components a bead
                error += 3.0 * settings.loss.energy_weight * loss.energy_squares(found.energies, batch)
        return Sums(error, 3.0 * jnp.sum(batch.weight))

    def rule(self, rate: Any) -> optax.GradientTransformationExtraArgs:
        """The optimiser at a learning rate."""
        one = self.optimisation
        decaying = optimizers.matrices if self.scaling is None else of_the_network
        return optimizers.optimizer(one.optimizer, rate, one.clip_norm, one.weight_decay, decaying)

    def init(self, params: Params) -> FitState:
        """Before the first update of all optimisations."""
        nothing = jnp.zeros((), jnp.int32)
        return FitState(
            params=params,
            average=params if self.settings.ema_decay > 0.0 else (),
            opt_state=self.rule(0.0).init(params),
            gradient=jax.tree.map(jnp.zeros_like, params),
            step=nothing,
            updates=nothing,
            scale=jnp.ones((), jnp.float32),
            tally=empty_tally(),
        )

    def begin(self, state: FitState) -> FitState:
        """At the start of this optimisation, after another one."""
        nothing, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32)
        return state._replace(opt_state=self.rule(0.0).init(state.params), step=nothing, scale=one)

    def step(self, state: FitState, lanes: Lanes, prior_params: Params) -> tuple[FitState, FitInfo]:
        """One update; jit it with the state donated."""
        over_devices = on_all(self._gradients, self.mesh, (EVERYWHERE, EVERYWHERE, SHARED), EVERYWHERE)
        sums, gradient, seen = over_devices(state.params, prior_params, lanes)
        gradient = jax.tree.map(lambda leaf: leaf / jnp.maximum(sums.components, 1e-30), gradient)
        rate = jnp.asarray(self.rate(state.step), jnp.float32) * state.scale
        updates, opt_state = self.rule(rate).update(gradient, state.opt_state, state.params, value=sums.mean)
        params = optax.apply_updates(state.params, updates)
        norm = optax.tree.norm(gradient)
        usable = jnp.isfinite(norm) & jnp.isfinite(sums.mean)
        after = FitState(
            params=params,
            average=self._averaged(state.average, params, state.updates),
            opt_state=opt_state,
            gradient=jax.tree.map(lambda leaf: jnp.where(usable, leaf, 0.0), gradient),
            step=state.step + 1,
            updates=state.updates + 1,
            scale=state.scale,
            tally=_tallied(state, sums.mean, gradient, norm, usable, seen),
        )
        return after, FitInfo(sums.mean, norm, rate, seen.stop)

    def _gradients(self, params: Params, prior_params: Params, lanes: Lanes) -> Any:
        """On one device: sums over its batches, joined with those of the others."""

        def of_batch(batch: Batch) -> Any:
            def error(params: Params) -> tuple[Array, Sums]:
                sums = self.sums(params, prior_params, batch)
                return sums.error, sums

            gradient, sums = jax.grad(error, has_aux=True)(params)
            weightless = batch.system.bead_mask & (batch.weight == 0.0) & ~batch.decoy
            edges = jnp.mean(batch.neighbors.edge_mask.astype(jnp.float32))
            beads = [jnp.sum(mask.astype(jnp.float32)) for mask in (batch.system.bead_mask, weightless)]
            return sums, gradient, (edges / (count * self.mesh.size), beads[0], beads[1])

        count = lanes.stop.shape[0]
        if count == 1:
            found = of_batch(jax.tree.map(lambda leaf: leaf[0], lanes.batches))
        else:
            like = jax.eval_shape(of_batch, jax.tree.map(lambda leaf: leaf[0], lanes.batches))
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
            found, _ = jax.lax.scan(
                lambda total, batch: (jax.tree.map(jnp.add, total, of_batch(batch)), None),
                zeros,
                lanes.batches,
            )
        sums, gradient, (edges, beads, unusable) = found
        seen = Seen(edges, beads, unusable, jnp.sum(lanes.stop))
        return jax.lax.psum((sums, gradient, seen), AXIS)

    def _averaged(self, average: Params, params: Params, updates: Array) -> Params:
        """The exponential average, of a decay that grows as (1+n)/(10+n) in the first n updates."""
        if self.settings.ema_decay == 0.0:
            return average
        n = updates.astype(jnp.float32)
        decay = jnp.minimum(self.settings.ema_decay, (1.0 + n) / (10.0 + n))
        return optax.incremental_update(params, average, 1.0 - decay)


def _tallied(state: FitState, mean: Array, gradient: Params, norm: Array, usable: Array, seen: Seen) -> Tally:
    before, one = state.tally, usable.astype(jnp.float32)
    paired = jnp.where(usable & (optax.tree.norm(state.gradient) > 0.0), 1.0, 0.0)

    def kept(value: Array, counts: Array) -> Array:
        return jnp.where(counts > 0.0, value, 0.0)

    return Tally(
        tried=before.tried + 1.0,
        updates=before.updates + one,
        loss=before.loss + kept(mean, one),
        gradient_norm=before.gradient_norm + kept(norm, one),
        square=before.square + kept(norm**2, one),
        pairs=before.pairs + paired,
        product=before.product + kept(jnp.asarray(optax.tree.vdot(gradient, state.gradient)), paired),
        edges=before.edges + seen.edges,
        beads=before.beads + seen.beads,
        unusable=before.unusable + seen.unusable,
    )


def empty_tally() -> Tally:
    """At the start of an epoch."""
    return Tally(*(jnp.zeros((), jnp.float32) for _ in Tally._fields))


def of_the_network(params: Params) -> Params:
    """What decays: matrices of the network, no parameter of the priors, which their penalty holds."""
    fixed = jax.tree.map(lambda leaf: False, params["priors"])
    return {"network": optimizers.matrices(params["network"]), "priors": fixed}


def parts(params: Params, prior_params: Params, scaling: Scaling | None) -> tuple[Params, Params]:
    """Parameters of the network and of the priors, from those of a FitState and those the fit began with."""
    if scaling is None:
        return params, prior_params
    return params["network"], scaling.params(prior_params, params["priors"])


def noise_scale(square: float, product: float, beads: float) -> float:
    """B = tr Σ/|G|², beads: a batch of so many has as much noise as signal in its gradient.

    Σ is the covariance of the gradient of one bead, G the mean gradient. square, product: means of |g|² and
    of g·g' of consecutive updates of `beads` beads each, whose noise is independent, so that
    E|g|² = |G|² + tr Σ/beads and E g·g' = |G|². NaN when the product is not positive: there is too much noise
    to tell.
    McCandlish, Kaplan, Amodei et al., arXiv:1812.06162, eqs. 2.8, A.2.
    """
    if not product > 0.0:
        return float("nan")
    return beads * max(square / product - 1.0, 0.0)


Advance = Callable[[FitState, Lanes, Params], tuple[FitState, FitInfo]]


def compiled(matching: Matching) -> Advance:
    """The step, compiled at its first call; the state that it is given is used up."""
    return jax.jit(matching.step, donate_argnums=0)
