"""Short runs of an integrator alone, without the engine: forces of analytic energies, averages of graphs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cgrefine.sim.langevin import Evaluation, Integrator, State, packed_graphs

KEY = jax.random.key(11)


def evaluate_with(energy, wrong=False, system=None):
    """Energies and forces of an energy function of (params, positions) without neighbours."""

    def evaluate(params, x):
        def total(y):
            per_bead = energy(params, y, system, None)
            return per_bead.sum(), per_bead

        gradient, per_bead = jax.grad(total, has_aux=True)(x)
        return Evaluation(per_bead, gradient if wrong else -gradient, jnp.asarray(False))

    return evaluate


def run(integrator: Integrator, evaluate, params, x0, mass, kT, steps, key=KEY, beads=1) -> State:
    """The state after so many steps, compiled. mass, kT: (n,); beads: consecutive ones that are a graph."""
    pair = integrator.pair(evaluate, mass[:, None], kT[:, None], graphs_of(len(x0), beads))
    first, rest = jax.random.split(key)

    def body(i, state):
        return pair.step(jax.random.fold_in(rest, i), state, params)

    return jax.jit(lambda p: jax.lax.fori_loop(0, steps, body, pair.init(first, x0, p)))(params)


def averages(
    integrator: Integrator,
    evaluate,
    params,
    x0,
    mass,
    kT,
    relax: int,
    steps: int,
    measure: Callable[[State], Any],
    beads: int = 1,
    every: int = 1,
    key=KEY,
):
    """Time averages of measure(state), a tree of arrays, after `relax` steps, looked at `every` steps."""
    pair = integrator.pair(evaluate, mass[:, None], kT[:, None], graphs_of(len(x0), beads))
    first, rest = jax.random.split(key)

    def step(i, state):
        return pair.step(jax.random.fold_in(rest, i), state, params)

    def look(carry, j):
        state, total = carry
        begin = relax + j * every
        state = jax.lax.fori_loop(begin, begin + every, step, state)
        return (state, jax.tree.map(jnp.add, total, measure(state))), None

    @jax.jit
    def whole(x):
        state = jax.lax.fori_loop(0, relax, step, pair.init(first, x, params))
        zero = jax.tree.map(jnp.zeros_like, measure(state))
        (_, total), _ = jax.lax.scan(look, (state, zero), jnp.arange(steps // every))
        return jax.tree.map(lambda a: a / (steps // every), total)

    return jax.tree.map(np.asarray, whole(x0))


def frames(
    integrator: Integrator, evaluate, params, x0, mass, kT, relax: int, count: int, every: int,
    keep: Callable[[jax.Array], Any] = lambda x: x, beads: int = 1, key=KEY,
):  # fmt: skip
    """What `keep` makes of the positions (n, 3) of `count` frames, `every` steps apart, after `relax` steps.

    Traceable, and the same noise for all params under vmap: the difference of two of them is that of their
    energies.
    """
    pair = integrator.pair(evaluate, mass[:, None], kT[:, None], graphs_of(len(x0), beads))
    first, rest = jax.random.split(key)

    def step(i, state):
        return pair.step(jax.random.fold_in(rest, i), state, params)

    def frame(state, j):
        begin = relax + j * every
        state = jax.lax.fori_loop(begin, begin + every, step, state)
        return state, keep(state.positions)

    state = jax.lax.fori_loop(0, relax, step, pair.init(first, x0, params))
    return jax.lax.scan(frame, state, jnp.arange(count))[1]


def graphs_of(n: int, beads: int):
    """Graphs of `beads` consecutive beads each, of n in all."""
    return packed_graphs(jnp.arange(n) // beads, n // beads)


def deviations(values: np.ndarray, expected: float) -> float:
    """How many standard errors the mean of independent replicas' averages (r,) is from what is expected.

    Each replica's average has its own autocorrelation in it, so their spread is the whole error.
    """
    return float((values.mean() - expected) / (values.std(ddof=1) / np.sqrt(len(values))))
