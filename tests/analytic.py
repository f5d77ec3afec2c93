"""Systems with known answers. Each is an energy function of the package's form, one bead = one 3-D particle.

bead_energies(params, positions (n, 3), system, neighbors) -> (n,) kcal/mol.
Those of one coordinate are functions of (params, x), elementwise over x; `Coordinate` has their exact means
and frames, `OnALine` and `OfPairs` make energies of beads of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from scipy.integrate import quad

from cgrefine.system import System, pack, topology_from_species


def free_beads(n_graphs: int, beads: int = 1, species: int = 0) -> System:
    """n_graphs graphs of some unbonded beads each (a chain break before every one)."""
    return pack([topology_from_species([species] * beads, breaks=range(1, beads))] * n_graphs)


def harmonic(params, positions, system, neighbors):
    """½ k x², params {"k"}: variance of each coordinate kT/k."""
    return 0.5 * params["k"] * jnp.sum(positions**2, axis=1)


def asymmetric(params, positions, system, neighbors):
    """Each coordinate in `double_well`."""
    return jnp.sum(double_well(params, positions), axis=1)


def asymmetric_moment(a: float, b: float, kT: float, power: int) -> float:
    """⟨x^power⟩ of the asymmetric well by quadrature."""
    return WELL.mean({"a": a, "b": b}, kT, lambda x: x**power)


def double_well(params, x):
    """a (x² - 1)² - b x, params {"a", "b"}: two wells, the right one deeper for b > 0."""
    return params["a"] * (x**2 - 1.0) ** 2 - params["b"] * x


def lennard_jones(params, r):
    """4 ε ((σ/r)¹² - (σ/r)⁶), params {"eps", "sig"}."""
    sixth = (params["sig"] / r) ** 6
    return 4.0 * params["eps"] * (sixth**2 - sixth)


def spring(params, r):
    """½ k (r - r0)², params {"k", "r0"}."""
    return 0.5 * params["k"] * (r - params["r0"]) ** 2


def _flat(x: np.ndarray) -> np.ndarray:
    return np.ones_like(x)


Measured = Callable[[np.ndarray], np.ndarray]
"""An observable of values of the coordinate, elementwise."""


@dataclass(frozen=True)
class Coordinate:
    """x from low to high with the density ∝ jacobian(x) exp(-energy(params, x)/kT).

    Means are sums over `PANELS` Gauss-Legendre panels of 16 nodes, exact for steps at their edges: of the
    systems here at least 12 digits.
    """

    energy: Callable
    low: float
    high: float
    jacobian: Measured = _flat

    def _weighted(self, params: dict, kT: float) -> tuple[np.ndarray, np.ndarray]:
        node, weight = np.polynomial.legendre.leggauss(16)
        edges = np.linspace(self.low, self.high, PANELS + 1)
        half = 0.5 * np.diff(edges)[:, None]
        x = (edges[:-1, None] + half * (1.0 + node)).ravel()
        p = (half * weight).ravel() * self._density(params, kT, x)
        return x, p / p.sum()

    def _density(self, params: dict, kT: float, x: np.ndarray) -> np.ndarray:
        reduced = self.energy(params, x) / kT
        return self.jacobian(x) * np.exp(np.min(reduced) - reduced)

    def mean(self, params: dict, kT: float, g: Measured) -> float:
        """⟨g⟩."""
        x, p = self._weighted(params, kT)
        return float(np.sum(p * g(x)))

    def derivative(self, params: dict, kT: float, g: Measured, name: str, step: float = 1e-4) -> float:
        """d⟨g⟩/dθ of the parameter `name`, by differences of `mean` of fourth order: no covariance in it."""

        def at(shift: float) -> float:
            return self.mean({**params, name: params[name] + shift}, kT, g)

        return (8.0 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12.0 * step)

    def spread(self, params: dict, kT: float, g: Measured, name: str, step: float = 1e-4) -> float:
        """Standard deviation of the covariance estimate of d⟨g⟩/dθ over its value, times √N, for large N.

        √Var[(g - ⟨g⟩)(u - ⟨u⟩)]/|Cov(g, u)| with u = ∂U/∂θ.
        """
        x, p = self._weighted(params, kT)
        sides = [self.energy({**params, name: params[name] + h}, x) for h in (step, -step)]
        u = (sides[0] - sides[1]) / (2.0 * step)
        y = (g(x) - np.sum(p * g(x))) * (u - np.sum(p * u))
        covariance = np.sum(p * y)
        return float(np.sqrt(np.sum(p * (y - covariance) ** 2)) / abs(covariance))

    def sample(
        self, params: dict, kT: float, size: int | tuple[int, ...], rng: np.random.Generator
    ) -> np.ndarray:
        """Independent values, by the inverse of the cumulative distribution on 2·10⁵ intervals."""
        x = np.linspace(self.low, self.high, 200_001)
        p = self._density(params, kT, x)
        below = np.concatenate([[0.0], np.cumsum(p[1:] + p[:-1])])
        return np.interp(rng.random(size), below / below[-1], x)


PANELS = 128

WELL = Coordinate(double_well, -4.0, 4.0)
DIMER = Coordinate(lennard_jones, 0.6, 3.0, np.square)
BOND = Coordinate(spring, 2.6, 5.0, np.square)
"""A pair of beads in space has the weight r²."""


@dataclass(frozen=True)
class OnALine:
    """Beads whose first Cartesian coordinate has this energy; the others have none."""

    energy: Callable

    def __call__(self, params, positions, system, neighbors):
        """Energy of each bead, (n,) kcal/mol."""
        return self.energy(params, positions[:, 0])


@dataclass(frozen=True)
class AboutTheOrigin:
    """Beads whose distance from the origin has this energy: the relative coordinate of a pair."""

    energy: Callable

    def __call__(self, params, positions, system, neighbors):
        """Energy of each bead, (n,) kcal/mol."""
        return self.energy(params, jnp.linalg.norm(positions, axis=1))


@dataclass(frozen=True)
class OfPairs:
    """Every two consecutive beads a pair whose distance has this energy, shared equally."""

    energy: Callable

    def __call__(self, params, positions, system, neighbors):
        """Energy of each bead, (n,) kcal/mol."""
        there = jnp.asarray(system.bead_mask)[::2]
        apart = jnp.where(there[:, None], positions[1::2] - positions[0::2], 1.0)
        each = self.energy(params, jnp.linalg.norm(apart, axis=1))
        return jnp.repeat(jnp.where(there, 0.5 * each, 0.0), 2)


def pairs_at(r: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames (f, 2, 3) of two beads at distances r (f,), in random directions."""
    along = rng.normal(size=(len(r), 3))
    along *= (r / np.linalg.norm(along, axis=1))[:, None]
    return np.stack([-0.5 * along, 0.5 * along], axis=1)


def three_beads(params, positions, system, neighbors):
    """Chains of three beads, ½k(r - r0)² for both bonds and ½c(cos θ - u)² for the angle, shared equally.

    params {"k", "r0", "c", "u"}. Bond lengths and cos θ are independent: see `three_beads_means`.
    """
    a, b, c = jnp.moveaxis(positions.reshape(-1, 3, 3), 1, 0)
    left, right = a - b, c - b
    r = jnp.stack([jnp.linalg.norm(left, axis=1), jnp.linalg.norm(right, axis=1)])
    cosine = jnp.sum(left * right, axis=1) / (r[0] * r[1])
    bonds = 0.5 * params["k"] * jnp.sum((r - params["r0"]) ** 2, axis=0)
    return jnp.repeat((bonds + 0.5 * params["c"] * (cosine - params["u"]) ** 2) / 3.0, 3)


def three_beads_means(params: dict, kT: float) -> tuple[float, float]:
    """⟨r⟩, with the weight r² of a bond vector in space, and ⟨cos θ⟩, whose weight is flat."""

    def mean(energy, jacobian, low: float, high: float) -> float:
        def weight(x: float) -> float:
            return jacobian(x) * float(np.exp(-energy(x) / kT))

        return quad(lambda x: x * weight(x), low, high)[0] / quad(weight, low, high)[0]

    k, r0, c, u = (params[name] for name in ("k", "r0", "c", "u"))
    r = mean(lambda r: 0.5 * k * (r - r0) ** 2, lambda r: r * r, 0.0, 2.0 * r0)
    return r, mean(lambda x: 0.5 * c * (x - u) ** 2, lambda x: 1.0, -1.0, 1.0)


COSINE = Coordinate(spring, -1.0, 1.0)


def three_beads_span(params: dict, kT: float) -> float:
    """⟨d²⟩ of the distance d of the ends, 2⟨r²⟩ - 2⟨r⟩²⟨cos θ⟩."""
    bond, angle = {"k": params["k"], "r0": params["r0"]}, {"k": params["c"], "r0": params["u"]}
    length = Coordinate(spring, 0.0, 2.0 * params["r0"], np.square)
    r, square = (length.mean(bond, kT, lambda x, n=n: x**n) for n in (1, 2))
    return 2.0 * square - 2.0 * r**2 * COSINE.mean(angle, kT, lambda x: x)
