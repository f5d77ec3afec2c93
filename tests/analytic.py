"""Systems with known answers. Each is an energy function of the package's form, one bead = one 3-D particle.

bead_energies(params, positions (n, 3), system, neighbors) -> (n,) kcal/mol.
"""

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
    """Each coordinate in a (x² - 1)² - b x, params {"a", "b"}: two wells, the right one deeper for b > 0."""
    x = positions
    return jnp.sum(params["a"] * (x**2 - 1.0) ** 2 - params["b"] * x, axis=1)


def asymmetric_moment(a: float, b: float, kT: float, power: int) -> float:
    """⟨x^power⟩ of the asymmetric well by quadrature."""

    def weight(x: float) -> float:
        return float(np.exp(-(a * (x * x - 1.0) ** 2 - b * x) / kT))

    return quad(lambda x: x**power * weight(x), -4, 4)[0] / quad(weight, -4, 4)[0]


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
