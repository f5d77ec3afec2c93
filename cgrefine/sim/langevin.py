"""Langevin dynamics by BAOAB, over all beads of a packed graph at once.

The integrator is a frozen value (`Langevin(dt, friction)`), and a tree of its numbers, so that compiled code
takes them as arguments; `pair` gives its init and step for a force function, masses and kT. One step of
BAOAB, with F the force and h the time step:

    B  p ← p + h/2 F(x)
    A  x ← x + h/2 p/m
    O  p ← c p + sqrt((1 - c²) m kT) ξ,    c = exp(-friction h),  ξ ~ N(0, 1)
    A  x ← x + h/2 p/m
    B  p ← p + h/2 F(x)

Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34 (2013). Positions of a harmonic well are
sampled without time-step error; momenta at full steps have one of order h².
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cgrefine.sim import noise


class Evaluation(NamedTuple):
    """energies (n,) kcal/mol per bead; forces (n, 3) kcal/mol/Å; overflow (): too many neighbours to list."""

    energies: Array
    forces: Array
    overflow: Array


class State(NamedTuple):
    """All replicas, packed. positions, momenta (n, 3), internal units; at: energies and forces there.

    extra: what else an integrator carries, a tree of arrays with one row a graph (g, ...).
    """

    positions: Array
    momenta: Array
    at: Evaluation
    extra: Any = ()


class Graphs(NamedTuple):
    """Which beads are one graph, in whatever layout the positions have.

    total: values in the shape of the positions -> their sum over each graph (g,).
    spread: one value a graph (g,) -> values that broadcast against the positions.
    """

    total: Callable[[Array], Array]
    spread: Callable[[Array], Array]


def packed_graphs(graph_id: Int[Array, " beads"], n_graphs: int) -> Graphs:
    """Graphs of packed positions (n, 3); graph_id is sorted."""

    def total(values):
        return jax.ops.segment_sum(values.sum(-1), graph_id, n_graphs, indices_are_sorted=True)

    return Graphs(total, lambda values: values[graph_id][:, None])


Evaluate = Callable[[Any, Array], Evaluation]
"""(params, positions) -> Evaluation."""


class Pair(NamedTuple):
    """init(key, positions, params) -> State; step(key, state, params) -> State."""

    init: Callable[[Array, Array, Any], State]
    step: Callable[[Array, State, Any], State]


Number = float | Array
"""A float on the host, an array () in compiled code."""


@runtime_checkable
class Integrator(Protocol):
    """A tree of numbers that makes an init/step pair; what is no number of it (lengths) is static."""

    @property
    def dt(self) -> Number: ...

    def pair(self, evaluate: Evaluate, mass: Array, kT: Array, graphs: Graphs) -> Pair:
        """mass (g/mol) and kT (kcal/mol) broadcast against the positions; graphs: which beads are one."""
        ...


def maxwell_momenta(
    key: Array, like: Float[Array, "..."], mass: Float[Array, "..."], kT: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Momenta from the Maxwell-Boltzmann distribution, internal units, in the shape of the positions `like`.

    kT = 0 gives a bead at rest.
    """
    return jnp.sqrt(mass * kT) * noise.normal(key, like.shape, like.dtype)


@partial(jax.tree_util.register_dataclass, data_fields=("dt", "friction"), meta_fields=())
@dataclass(frozen=True)
class Langevin:
    """BAOAB with time step `dt` and `friction`, internal units; without friction it is velocity Verlet.

    Beads with kT = 0 and momentum 0 (padding) stay where they are. The noise of a bead depends on the
    key and on its place in the packed graph alone, so what happens to one replica leaves the others'.
    The centre of mass is not held.
    """

    dt: Number
    friction: Number

    def pair(
        self,
        evaluate: Evaluate,
        mass: Float[Array, "..."],
        kT: Float[Array, "..."],
        graphs: Graphs | None = None,
    ) -> Pair:
        """Init and step for mass (g/mol) and thermal energy kT (kcal/mol) that broadcast to the positions.

        Each bead has a bath of its own, so it does not matter which beads are one graph.
        """
        h = self.dt
        c = jnp.exp(-self.friction * h)
        # 1 - c², which loses most of its digits where the friction is small
        kick = jnp.sqrt(-jnp.expm1(-2.0 * self.friction * h) * mass * kT)
        per_mass = 1.0 / mass

        def init(key, positions, params):
            return State(positions, maxwell_momenta(key, positions, mass, kT), evaluate(params, positions))

        def step(key, state, params):
            x, p, at, _ = state
            p = p + 0.5 * h * at.forces
            x = x + 0.5 * h * p * per_mass
            p = c * p + kick * noise.normal(key, p.shape, p.dtype)
            x = x + 0.5 * h * p * per_mass
            at = evaluate(params, x)
            return State(x, p + 0.5 * h * at.forces, at)

        return Pair(init, step)
