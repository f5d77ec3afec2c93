"""Force matching of a whole force field as refinement needs it: random minibatches, error on held-out frames.

Beside each minibatch the parameters that the refinement began with are evaluated on the same frames: how much
the loss has grown is then known without the noise of the labels, and the gradient at the start can be
exchanged for its mean.
"""

from collections.abc import Iterable
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine import energy
from cgrefine.data.frames import FrameSet, thinned
from cgrefine.data.loader import AS_THEY_ARE, FrameSource, Packed, Reading, each, sweep
from cgrefine.data.packing import Batch, Item, budget_for, slim
from cgrefine.energy import BeadEnergies, Params
from cgrefine.errors import InputError
from cgrefine.fm import loss
from cgrefine.fm.loss import Sums

EDGE_HEADROOM = 1.1


class ForceStep(NamedTuple):
    """One minibatch. loss: mean squared error of a force component, (kcal/mol/Å)²; growth: of it, relative to
    the start on the same frames; gradient: of the loss by all parameters."""

    loss: float
    growth: float
    gradient: Params


class Minibatches:
    """Minibatches of training frames by number, drawn anew for each, in random order until one does not fit.

    beads: of a minibatch; mean_frames: evenly spread, that the mean gradient at the start is taken over;
    control_variate: g(θ) - g(θ₀) + ⟨g(θ₀)⟩ in place of g(θ) (Johnson & Zhang, NeurIPS 2013), whose noise is
    that of the difference. held_out: frames whose error is measured.
    """

    def __init__(
        self,
        model: BeadEnergies,
        start: Params,
        training: FrameSet,
        held_out: FrameSet,
        seed: int,
        beads: int,
        mean_frames: int,
        control_variate: bool,
    ) -> None:
        longest = max(d.n_beads for d in (*training.domains, *held_out.domains))
        self._budget = budget_for([training, held_out], max(beads, longest), EDGE_HEADROOM)
        self._source = FrameSource(training, None, 0, 1, AS_THEY_ARE, (0, 1))
        self._model, self._seed = model, seed
        self._start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), start)
        self._even = thinned(training, mean_frames)
        self._control_variate = control_variate
        self._held = [_on_device(packed) for packed in self._swept(held_out)]

    def step(self, params: Params, number: int) -> ForceStep:
        """The loss and its gradient on minibatch `number`."""
        batch = self._drawn(number)
        there = _gradient(self._model, params, batch)
        start = _gradient(self._model, self._start, batch)
        now, before = float(there[0].mean), float(start[0].mean)
        gradient = _mean(there)
        if self._control_variate:
            gradient = jax.tree.map(lambda a, b, c: a - b + c, gradient, _mean(start), self._at_start)
        growth = (now - before) / max(before, float(np.finfo(np.float32).tiny))
        return ForceStep(now, growth, jax.tree.map(np.asarray, gradient))

    def held_out(self, params: Params) -> float:
        """Mean squared error of a force component over the held-out frames, (kcal/mol/Å)²."""
        sums = [_sums(self._model, params, batch) for batch in self._held]
        return float(sum(float(s.error) for s in sums) / sum(float(s.components) for s in sums))

    @cached_property
    def _at_start(self) -> Params:
        """The mean gradient at the start."""
        total: Any = None
        for packed in self._swept(self._even):
            found = _gradient(self._model, self._start, _on_device(packed))
            total = found if total is None else jax.tree.map(jnp.add, total, found)
        return _mean(total)

    def _swept(self, frames: FrameSet) -> Iterable[Packed]:
        return each(sweep(frames, self._budget, Reading(16, 1, 0)))

    def _drawn(self, number: int) -> Batch:
        """Random frames with finite forces up to the first that does not fit, none of them twice."""
        budget, rng = self._budget, np.random.default_rng([self._seed, number])
        taken: list[Item] = []
        beads, edges = budget.beads, budget.edges
        for row in rng.permutation(len(self._source.frames)):
            item = self._source.item(int(row))
            if item.weight == 0.0:
                continue
            beads, edges = beads - item.n_beads, edges - item.n_edges
            if len(taken) == budget.graphs or beads < 0 or edges < 0:
                break
            taken.append(item)
        if not taken:
            raise InputError(
                "refine.forces: no training frame has finite forces, or one exceeds a minibatch; "
                "raise refine.forces.batch_beads"
            )
        return _on_device(self._source.packed(taken, budget))


def _on_device(packed: Packed) -> Batch:
    return jax.tree.map(jnp.asarray, slim(packed.batch))


@partial(jax.jit, static_argnums=0)
def _sums(model: BeadEnergies, params: Params, batch: Batch) -> Sums:
    return _error(model, params, batch)[1]


@partial(jax.jit, static_argnums=0)
def _gradient(model: BeadEnergies, params: Params, batch: Batch) -> tuple[Sums, Params]:
    gradient, sums = jax.grad(partial(_error, model), has_aux=True)(params, batch)
    return sums, gradient


def _error(model: BeadEnergies, params: Params, batch: Batch) -> tuple[Array, Sums]:
    found = energy.forces(model, params, jnp.asarray(batch.positions), batch.system, batch.neighbors)
    weight = jnp.asarray(batch.weight)
    sums = Sums(loss.force_squares(found, batch.target_forces, weight), 3.0 * jnp.sum(weight))
    return sums.error, sums


def _mean(found: tuple[Sums, Params]) -> Params:
    sums, gradient = found
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(sums.components, 1e-30), gradient)
