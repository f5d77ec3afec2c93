"""Overdamped Langevin dynamics by the scheme of Leimkuhler and Matthews: the noise of two steps averaged.

With F the force, h the time step, γ the friction and ξ_n ~ N(0, 1) the noise of step n:

    x_{n+1} = x_n + h F(x_n)/(γ m) + sqrt(2 kT h/(γ m)) (ξ_n + ξ_{n+1})/2

Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34 (2013): the limit of BAOAB at high friction.
Averages over positions are of second order in h, where Euler-Maruyama has first order, and those of a
harmonic well are exact at any stable step, h < 2 γ m/k.

The noise is carried as the momentum that it stands for, p_n = sqrt(m kT) ξ_n: the momenta of an overdamped
particle are those of the bath. So the kinetic temperature of a run is that of the noise, and no check.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cgrefine.sim.langevin import Evaluate, Graphs, Number, Pair, State, maxwell_momenta


@partial(jax.tree_util.register_dataclass, data_fields=("dt", "friction"), meta_fields=())
@dataclass(frozen=True)
class Brownian:
    """Overdamped dynamics with time step `dt` and `friction` (1/time), internal units.

    A free bead diffuses with D = kT/(friction m).
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
        """Init and step for mass (g/mol) and kT (kcal/mol) that broadcast to the positions."""
        h = self.dt
        mobility = 1.0 / (self.friction * mass)
        # sqrt(2 kT h/(γ m)) ξ/2 is this many times p/m
        noise_time = jnp.sqrt(0.5 * h / self.friction)
        per_mass = 1.0 / mass

        def init(key, positions, params):
            return State(positions, maxwell_momenta(key, positions, mass, kT), evaluate(params, positions))

        def step(key, state, params):
            x, before, at, _ = state
            p = maxwell_momenta(key, x, mass, kT)
            x = x + h * mobility * at.forces + noise_time * per_mass * (before + p)
            return State(x, p, evaluate(params, x))

        return Pair(init, step)
