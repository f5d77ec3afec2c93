"""Constant-energy dynamics by velocity Verlet: the control that shows whether forces are a gradient."""

from dataclasses import dataclass
from functools import partial

import jax
from jaxtyping import Array, Float

from cgrefine.sim.langevin import Evaluate, Graphs, Number, Pair, State, maxwell_momenta


@partial(jax.tree_util.register_dataclass, data_fields=("dt",), meta_fields=())
@dataclass(frozen=True)
class VelocityVerlet:
    """Velocity Verlet with time step `dt`, internal units. The energy error is bounded, of order dt².

    Swope, Andersen, Berens & Wilson, J. Chem. Phys. 76, 637 (1982).
    """

    dt: Number

    def pair(
        self,
        evaluate: Evaluate,
        mass: Float[Array, "..."],
        kT: Float[Array, "..."],
        graphs: Graphs | None = None,
    ) -> Pair:
        """Init and step; kT (kcal/mol) is that of the momenta drawn by init, the key of step is not spent."""
        h = self.dt
        per_mass = 1.0 / mass

        def init(key, positions, params):
            return State(positions, maxwell_momenta(key, positions, mass, kT), evaluate(params, positions))

        def step(key, state, params):
            del key
            x, p, at, _ = state
            p = p + 0.5 * h * at.forces
            x = x + h * p * per_mass
            at = evaluate(params, x)
            return State(x, p + 0.5 * h * at.forces, at)

        return Pair(init, step)
