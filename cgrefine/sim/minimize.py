"""Energy minimisation by FIRE, all graphs of a packed system at once, each with a step of its own.

With v the velocity and F the force of one graph, unit masses, P = F·v and step h:

    P > 0:   v ← (1 - α) v + α |v| F/|F|;  after N_min such steps h ← min(h f_inc, h_max), α ← α f_α
    P ≤ 0:   v ← 0,  h ← h f_dec,  α ← α_start
    then     v ← v + h F,  x ← x + h v

Bitzek, Koskinen, Gähler, Moseler & Gumbsch, Phys. Rev. Lett. 97, 170201 (2006), with their constants and
semi-implicit Euler steps, as Guénolé et al., Comput. Mater. Sci. 175, 109584 (2020), advise. No bead moves
further than `max_move_A` in a step: the move of its graph is scaled down.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cgrefine import energy
from cgrefine.energy import BeadEnergies
from cgrefine.sim.forces import evaluation, pairs_of, room_for
from cgrefine.sim.langevin import Graphs, packed_graphs
from cgrefine.system import System

N_MIN, F_INC, F_DEC, ALPHA_START, F_ALPHA = 5, 1.1, 0.5, 0.1, 0.99
"""The constants of Bitzek et al. (2006)."""


class Outcome(IntEnum):
    """How the minimisation of one graph ended."""

    CONVERGED = 0
    UNFINISHED = 1
    NON_FINITE_START = 2
    NON_FINITE = 3


OUTCOMES = {
    Outcome.CONVERGED: "converged",
    Outcome.UNFINISHED: "the largest force is still above the tolerance",
    Outcome.NON_FINITE_START: "the start, its energy or a force on it is not finite",
    Outcome.NON_FINITE: "a force or energy became not finite on the way",
}


@dataclass(frozen=True)
class Fire:
    """Stops a graph when no bead's force is above force_tolerance (kcal/mol/Å), or after max_steps.

    step, max_step: first and largest h for unit masses, Å (kcal/mol)^-1/2.
    """

    force_tolerance: float
    max_steps: int = 5000
    max_move_A: float = 0.1
    step: float = 0.01
    max_step: float = 0.1


class Minimum(NamedTuple):
    """positions (n, 3) Å; potential (g,) kcal/mol; max_force (g,) kcal/mol/Å; steps, outcome (g,) int32.

    A graph that went wrong has its last positions with finite forces; a start that was not finite is
    given back.
    """

    positions: np.ndarray
    potential: np.ndarray
    max_force: np.ndarray
    steps: np.ndarray
    outcome: np.ndarray


class _Search(NamedTuple):
    """x, v, forces (n, 3); potential, step, alpha (g,); downhill, steps, outcome (g,) int32; the rest ()."""

    x: Array
    v: Array
    forces: Array
    potential: Array
    step: Array
    alpha: Array
    downhill: Array
    steps: Array
    outcome: Array
    count: Array
    overflow: Array


def minimized(
    bead_energies: BeadEnergies,
    params: Any,
    system: System,
    positions: Float[Array | np.ndarray, "beads 3"],
    cutoff_A: float,
    fire: Fire,
) -> Minimum:
    """Minimise the energy of every graph from the given positions, in their dtype.

    cutoff_A = 0: the energy needs no neighbours. A graph that has converged or went wrong stays where it
    is, and does not touch the others.
    """
    pairs = pairs_of(system, cutoff_A)
    room = room_for(np.asarray(positions), pairs, cutoff_A, headroom=1.5)
    arguments = (params, jnp.asarray(positions), system, pairs)
    found = _search(bead_energies, cutoff_A, room, fire, *arguments)
    while bool(found.overflow):
        room = min(2 * room, len(pairs.senders))
        found = _search(bead_energies, cutoff_A, room, fire, *arguments)
    graph_id, n_graphs = jnp.asarray(system.graph_id), system.graph_mask.shape[0]
    return Minimum(
        np.asarray(found.x),
        np.asarray(found.potential),
        np.asarray(_largest(found.forces, graph_id, n_graphs)),
        np.asarray(found.steps),
        np.asarray(found.outcome),
    )


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _search(bead_energies, cutoff_A, room, fire, params, positions, system, pairs) -> _Search:
    graph_id, n_graphs = jnp.asarray(system.graph_id), system.graph_mask.shape[0]
    graphs = packed_graphs(graph_id, n_graphs)
    beads = jnp.asarray(system.bead_mask)[:, None]

    def evaluated(x):
        at = evaluation(bead_energies, params, x, system, pairs, cutoff_A, room)
        return energy.graph_energies(at.energies, graph_id, n_graphs), at.forces, at.overflow

    def finite(x, potential, forces):
        wrong = jnp.where(beads & ~(jnp.isfinite(x) & jnp.isfinite(forces)), 1.0, 0.0)
        return (graphs.total(wrong) == 0) & jnp.isfinite(potential)

    def judged(outcome, usable, largest, wrong):
        active = outcome == Outcome.UNFINISHED
        outcome = jnp.where(active & (largest <= fire.force_tolerance), int(Outcome.CONVERGED), outcome)
        return jnp.where(active & ~usable, int(wrong), outcome).astype(jnp.int32)

    def going_on(s: _Search):
        return jnp.any(s.outcome == Outcome.UNFINISHED) & (s.count < fire.max_steps) & ~s.overflow

    def advance(s: _Search) -> _Search:
        active = s.outcome == Outcome.UNFINISHED
        v, step, alpha, downhill = _steered(s, graphs, fire)
        v = v + graphs.spread(step) * s.forces
        move = graphs.spread(step) * v
        far = _largest(move, graph_id, n_graphs)
        move = move * graphs.spread(jnp.minimum(1.0, fire.max_move_A / jnp.maximum(far, fire.max_move_A)))
        x = s.x + jnp.where(graphs.spread(active), move, 0.0)
        potential, forces, overflow = evaluated(x)
        usable = finite(x, potential, forces)
        taken = active & usable
        bead = graphs.spread(taken)
        forces = jnp.where(bead, forces, s.forces)
        return _Search(
            x=jnp.where(bead, x, s.x),
            v=jnp.where(bead, v, s.v),
            forces=forces,
            potential=jnp.where(taken, potential, s.potential),
            step=jnp.where(taken, step, s.step),
            alpha=jnp.where(taken, alpha, s.alpha),
            downhill=jnp.where(taken, downhill, s.downhill),
            steps=s.steps + taken,
            outcome=judged(s.outcome, usable, _largest(forces, graph_id, n_graphs), Outcome.NON_FINITE),
            count=s.count + 1,
            overflow=overflow,
        )

    potential, forces, overflow = evaluated(positions)
    unfinished = jnp.where(system.graph_mask, int(Outcome.UNFINISHED), int(Outcome.CONVERGED))
    start = _Search(
        x=positions,
        v=jnp.zeros_like(positions),
        forces=forces,
        potential=potential,
        step=jnp.full(n_graphs, fire.step, positions.dtype),
        alpha=jnp.full(n_graphs, ALPHA_START, positions.dtype),
        downhill=jnp.zeros(n_graphs, jnp.int32),
        steps=jnp.zeros(n_graphs, jnp.int32),
        outcome=judged(
            unfinished,
            finite(positions, potential, forces),
            _largest(forces, graph_id, n_graphs),
            Outcome.NON_FINITE_START,
        ),
        count=jnp.asarray(0, jnp.int32),
        overflow=overflow,
    )
    return jax.lax.while_loop(going_on, advance, start)


def _steered(s: _Search, graphs: Graphs, fire: Fire) -> tuple[Array, Array, Array, Array]:
    """Velocity, step, alpha and number of downhill steps of each graph after looking at its power F·v."""
    power = graphs.total(s.forces * s.v)
    down: Bool[Array, " graphs"] = power > 0
    speed, pull = (jnp.sqrt(graphs.total(a * a)) for a in (s.v, s.forces))
    along = s.alpha * speed / jnp.where(pull > 0, pull, 1.0)
    v = graphs.spread(1.0 - s.alpha) * s.v + graphs.spread(along) * s.forces
    v = jnp.where(graphs.spread(down), v, 0.0)
    sure = down & (s.downhill >= N_MIN)
    faster = jnp.where(sure, jnp.minimum(s.step * F_INC, fire.max_step), s.step)
    # the first step has no power yet: it must not shorten the step
    moving = speed > 0
    step = jnp.where(down | ~moving, faster, s.step * F_DEC)
    alpha = jnp.where(down, jnp.where(sure, s.alpha * F_ALPHA, s.alpha), ALPHA_START)
    return v, step, alpha, jnp.where(down, s.downhill + 1, 0)


def _largest(
    vectors: Float[Array, "beads 3"], graph_id: Int[Array, " beads"], n_graphs: int
) -> Float[Array, " graphs"]:
    """The longest vector of each graph; 0 for a graph without beads."""
    squared = jax.ops.segment_max(jnp.sum(vectors**2, axis=1), graph_id, n_graphs)
    return jnp.sqrt(jnp.maximum(squared, 0.0))
