"""Canonical dynamics by Nosé-Hoover chains, one chain for each graph, over all graphs at once.

For a graph with N_f = 3n momenta and a chain of M links (η_k, p_k), masses Q_1 = N_f kT τ² and
Q_k = kT τ², with K the kinetic energy:

    dx/dt = p/m,     dp/dt = F - p p_1/Q_1,      dη_k/dt = p_k/Q_k
    dp_k/dt = G_k - p_k p_{k+1}/Q_{k+1},         G_1 = 2K - N_f kT,   G_k = p_{k-1}²/Q_{k-1} - kT

Conserved: U + K + Σ p_k²/2Q_k + N_f kT η_1 + kT Σ_{k>1} η_k.

Martyna, Klein & Tuckerman, J. Chem. Phys. 97, 2635 (1992). A step is half a step of the chain, velocity
Verlet, half a step of the chain; each half is split by a Suzuki-Yoshida scheme of weights w:
Martyna, Tuckerman, Tobias & Klein, Mol. Phys. 87, 1117 (1996).

A molecule in no external field keeps the direction of its total momentum P, since P exp(η_1) is
conserved. The length is not kept: with the measure exp(N_f η_1) of Tuckerman, Liu, Ciccotti & Martyna,
J. Chem. Phys. 115, 1678 (2001), ∫ dη_1 δ³(P exp(η_1) - K) leaves the density |P|² exp(-|P|²/2M kT), which is
Maxwell's. So N_f is 3n, and momenta are drawn with their centre of mass moving. A few stiff oscillators may
still be far from ergodic: Langevin dynamics is the default.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cgrefine.sim.langevin import Evaluate, Graphs, Number, Pair, State, maxwell_momenta

_THIRD = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
_FIFTH = 1.0 / (4.0 - 4.0 ** (1.0 / 3.0))
SUZUKI_YOSHIDA = {
    1: (1.0,),
    3: (_THIRD, 1.0 - 2.0 * _THIRD, _THIRD),
    5: (_FIFTH, _FIFTH, 1.0 - 4.0 * _FIFTH, _FIFTH, _FIFTH),
}
"""Number of weights w → the weights, Σw = 1. Three and five have Σw³ = 0 and so are of fourth order; some
programs print 2^(-1/3) and 4^(-1/3) in them, which leaves second order."""


class Chain(NamedTuple):
    """Thermostats of g graphs with M links each: eta, momenta (g, M), internal units."""

    eta: Array
    momenta: Array


class Bath(NamedTuple):
    """What the chains act with: kT, freedom (the number N_f of momenta) (g,); mass Q (g, M)."""

    kT: Array
    freedom: Array
    mass: Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("dt", "relaxation"),
    meta_fields=("length", "weights"),
)
@dataclass(frozen=True)
class NoseHoover:
    """Chains of `length` links with relaxation time `relaxation` (τ) and time step `dt`, internal units.

    weights: of the Suzuki-Yoshida scheme, 1, 3 or 5. Raises ValueError on another number, and on a chain of
    fewer than two links (a single one is not ergodic even for one oscillator among many).
    """

    dt: Number
    relaxation: Number
    length: int = 3
    weights: int = 3

    def __post_init__(self) -> None:
        if self.weights not in SUZUKI_YOSHIDA:
            raise ValueError(f"Suzuki-Yoshida weights: {self.weights}; choose from {sorted(SUZUKI_YOSHIDA)}")
        if self.length < 2:
            raise ValueError(f"a Nosé-Hoover chain of {self.length} links: at least 2 are needed")

    def pair(
        self, evaluate: Evaluate, mass: Float[Array, "..."], kT: Float[Array, "..."], graphs: Graphs
    ) -> Pair:
        """Init and step; the state carries a `Chain` as its extra. The key of step is not spent."""
        h = self.dt
        per_mass = 1.0 / mass

        def init(key, positions, params):
            p = maxwell_momenta(key, positions, mass, kT)
            links = jnp.zeros((graphs.total(p).shape[0], self.length), positions.dtype)
            return State(positions, p, evaluate(params, positions), Chain(links, links))

        def thermostatted(p, chain):
            bath = self.bath(p, kT, graphs)
            scale, chain = self._half_step(graphs.total(p * p * per_mass), chain, bath)
            return p * graphs.spread(scale), chain

        def step(key, state, params):
            del key
            x, p, at, chain = state
            p, chain = thermostatted(p, chain)
            p = p + 0.5 * h * at.forces
            x = x + h * p * per_mass
            at = evaluate(params, x)
            p, chain = thermostatted(p + 0.5 * h * at.forces, chain)
            return State(x, p, at, chain)

        return Pair(init, step)

    def bath(self, like: Float[Array, "..."], kT: Float[Array, "..."], graphs: Graphs) -> Bath:
        """Thermal energy, freedom and chain masses of each graph; `like` has the shape of the positions.

        Beads with kT = 0 (padding) are not counted. A graph without any other has harmless masses.
        """
        each = jnp.broadcast_to(kT, like.shape)
        freedom = graphs.total(jnp.where(each > 0, jnp.ones_like(like), 0.0))
        mean = jnp.where(freedom > 0, graphs.total(each) / jnp.maximum(freedom, 1.0), 1.0)
        mass = jnp.broadcast_to((mean * self.relaxation**2)[:, None], (mean.shape[0], self.length))
        return Bath(mean, freedom, mass.at[:, 0].multiply(jnp.maximum(freedom, 1.0)))

    def invariant(
        self, chain: Chain, bath: Bath, total_energy: Float[Array, " graphs"]
    ) -> Float[Array, " graphs"]:
        """The conserved quantity of each graph, kcal/mol; total_energy is U + K."""
        links = (chain.momenta**2 / (2.0 * bath.mass)).sum(1)
        return total_energy + links + bath.kT * (bath.freedom * chain.eta[:, 0] + chain.eta[:, 1:].sum(1))

    def _half_step(
        self, twice_kinetic: Float[Array, " graphs"], chain: Chain, bath: Bath
    ) -> tuple[Float[Array, " graphs"], Chain]:
        """Half a time step of the chains: the factor of the momenta of each graph, and the chains after."""
        scale = jnp.ones_like(twice_kinetic)
        for weight in SUZUKI_YOSHIDA[self.weights]:
            factor, chain = _substep(0.5 * self.dt * weight, twice_kinetic * scale**2, chain, bath)
            scale = scale * factor
        return scale, chain


def _substep(
    delta: Number, twice_kinetic: Float[Array, " graphs"], chain: Chain, bath: Bath
) -> tuple[Float[Array, " graphs"], Chain]:
    """The chains over a time delta by one symmetric splitting: last link to first, scaling, first to last."""
    p, q = list(chain.momenta.T), list(bath.mass.T)
    last = len(p) - 1

    def pushed(k, twice_kinetic):
        drive = twice_kinetic - bath.freedom * bath.kT if k == 0 else p[k - 1] ** 2 / q[k - 1] - bath.kT
        damping = 1.0 if k == last else jnp.exp(-0.25 * delta * p[k + 1] / q[k + 1])
        return damping * (damping * p[k] + 0.5 * delta * drive)

    for k in range(last, -1, -1):
        p[k] = pushed(k, twice_kinetic)
    factor = jnp.exp(-delta * p[0] / q[0])
    eta = chain.eta + delta * jnp.stack(p, 1) / bath.mass
    for k in range(last + 1):
        p[k] = pushed(k, twice_kinetic * factor**2)
    return factor, Chain(eta, jnp.stack(p, 1))
