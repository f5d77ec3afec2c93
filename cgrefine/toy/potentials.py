"""Two potentials of a particle in a plane, and by quadrature what coarse-graining makes of them.

The particle is one bead at (x, y, 0); x is kept and y averaged out. Lengths in Å, energies in kcal/mol as
everywhere, so that kT = 1 kcal/mol is a temperature of 503 K. CGnets were first shown on the coupled one:
Wang, Olsson, Wehmeyer, Pérez, Charron, de Fabritiis, Noé & Clementi, ACS Cent. Sci. 5, 755 (2019).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine.energy import FieldTerm, Params
from cgrefine.geometry import AnyArray
from cgrefine.observables.histogram import Bins

EDGE_A = 5.0
"""Points are drawn, and models judged, from -EDGE_A to EDGE_A in x, and drawn in y as well."""

FAR_A = 8.0
"""Beyond it in x the potentials are above 50 kcal/mol, and no particle is."""

Y_FAR_A = 30.0
"""Beyond it in y the coupled potential is above 40 kcal/mol."""


def _quartic(x: Any) -> Any:
    return (x - 4.0) * (x - 2.0) * (x + 2.0) * (x + 3.0) / 50.0


def uncoupled(params: Params, positions: Float[AnyArray, "beads 3"]) -> Float[Array, " beads"]:
    """V1 = (x-4)(x+2)(x-2)(x+3)/50 + y²/2 + sin(3(x+5)(x+6))/25: the force along x does not depend on y."""
    x, y = jnp.asarray(positions[:, 0]), jnp.asarray(positions[:, 1])
    return _quartic(x) + y**2 / 2.0 + jnp.sin(3.0 * (x + 5.0) * (x + 6.0)) / 25.0


def coupled(params: Params, positions: Float[AnyArray, "beads 3"]) -> Float[Array, " beads"]:
    """V2 = (x-4)(x-2)(x+2)(x+3)/50 + y²/20 + sin(3(x+5)(y-6))/25: forces along x scatter about their mean."""
    x, y = jnp.asarray(positions[:, 0]), jnp.asarray(positions[:, 1])
    return _quartic(x) + y**2 / 20.0 + jnp.sin(3.0 * (x + 5.0) * (y - 6.0)) / 25.0


POTENTIALS: Mapping[str, FieldTerm] = {
    "uncoupled": FieldTerm("uncoupled", uncoupled),
    "coupled": FieldTerm("coupled", coupled),
}


def plane(x: Float[AnyArray, " n"], y: Float[AnyArray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Positions (x, y, 0)."""
    return np.stack([x, y, np.zeros_like(x)], axis=1)


class Known(NamedTuple):
    """An energy of x by quadrature. x, p (n,): nodes and their probabilities; energy (n,) kcal/mol."""

    x: np.ndarray
    p: np.ndarray
    energy: np.ndarray

    def right(self) -> float:
        """Population of x ≥ 0."""
        return float(self.p[self.x >= 0.0].sum())


@dataclass(frozen=True)
class Truth:
    """What is known of x at kT (kcal/mol) when y is averaged from -y_reach to y_reach (Å).

    Sums over PANELS × 16 Gauss-Legendre nodes in y, several a wavelength of the ripples everywhere.
    """

    potential: FieldTerm
    kT: float
    y_reach: float

    def conditional(self, x: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """PMF (n,), mean of the force along x (n,) and its variance over y (n,), at each x.

        PMF -kT ln ∫ exp(-V/kT) dy, kcal/mol; the mean force is minus its slope, ⟨-∂V/∂x⟩ at fixed x.
        """
        y, width = nodes(-self.y_reach, self.y_reach)
        with jax.enable_x64(True):
            at = (jnp.asarray(part, jnp.float64) for part in (x, y, width))
            pmf, mean, variance = _averaged(self.potential.scalar, self.kT, *at)
        return np.asarray(pmf), np.asarray(mean), np.asarray(variance)

    @cached_property
    def known(self) -> Known:
        """The PMF and the distribution of x from -FAR_A to FAR_A."""
        x, width = nodes(-FAR_A, FAR_A)
        pmf = self.conditional(x)[0]
        return Known(x, normalised(pmf, width, self.kT), pmf)

    def histogram(self, grid: Bins) -> Float[np.ndarray, " size"]:
        """The exact distribution of x over these bins, overflow first and last."""
        return binned(self.known.x, self.known.p, grid)


PANELS = 128
"""Along x their edges are those of bins of 1/8 Å and its multiples, over which sums are then exact."""


def nodes(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of an integral, 16 of Gauss and Legendre on each panel."""
    node, weight = np.polynomial.legendre.leggauss(16)
    half = 0.5 * np.diff(np.linspace(low, high, PANELS + 1))[:, None]
    middle = np.linspace(low, high, PANELS + 1)[:-1, None] + half
    return (middle + half * node).ravel(), (half * weight).ravel()


@partial(jax.jit, static_argnums=0)
def _averaged(
    energy: Callable[[Params, Array], Array], kT: float | Array, x: Array, y: Array, width: Array
) -> tuple[Array, Array, Array]:
    """PMF, mean force and its variance (n,) each, from nodes y with weights."""

    def at(place: Array) -> tuple[Array, Array, Array]:
        def along(u: Array) -> Array:
            return energy({}, jnp.stack([jnp.full_like(y, u), y, jnp.zeros_like(y)], axis=1))

        v, slope = jax.jvp(along, (place,), (jnp.ones_like(place),))
        logs = jnp.log(width) - v / kT
        p = jax.nn.softmax(logs)
        mean = -jnp.sum(p * slope)
        return -kT * jax.nn.logsumexp(logs), mean, jnp.sum(p * (slope + mean) ** 2)

    return jax.lax.map(at, x, batch_size=64)


def normalised(energy: Float[np.ndarray, " n"], width: Float[np.ndarray, " n"], kT: float) -> np.ndarray:
    """Probabilities of nodes with these weights at an energy, which sum to 1."""
    p = width * np.exp((energy.min() - energy) / kT)
    return p / p.sum()


def binned(x: np.ndarray, p: np.ndarray, grid: Bins) -> Float[np.ndarray, " size"]:
    """Probabilities of nodes as a histogram, overflow first and last."""
    return np.bincount(bin_of(x, grid), weights=p, minlength=grid.size)


def bin_of(x: np.ndarray, grid: Bins) -> np.ndarray:
    """Place of each value in a histogram."""
    return np.clip(np.floor((x - grid.low) / grid.width), -1, grid.count).astype(int) + 1
