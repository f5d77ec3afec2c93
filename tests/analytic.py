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
