"""The time-step error of configurational averages, to many digits and without sampling.

One step of an integrator is a Markov kernel on (x, p). With its Gaussian noise put in as the nodes of a
Gauss-Hermite rule, E[φ(x', p')] is a sum, and the stationary density, written as a Gaussian times Hermite
polynomials, is the eigenvector of a small matrix to the eigenvalue 1. So the order of the error is measured
where sampling would need 10⁹ steps.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy.integrate import quad

from cgrefine.sim import langevin
from cgrefine.sim.brownian import Brownian
from cgrefine.sim.langevin import Evaluation, Integrator, Langevin, Pair, State
from tests.dynamics import graphs_of

MASS, KT = 1.3, 0.8
TILT, RIPPLE, WAVE = 0.4, 0.3, 2.0


def potential(x):
    """½x² with a ripple of curvature 1 ± 1.2, tilted: anharmonic, asymmetric, bound at every step here."""
    return 0.5 * x**2 + RIPPLE * np.cos(WAVE * x) + TILT * np.sin(x)


def evaluate(params, x):
    force = -(x - RIPPLE * WAVE * jnp.sin(WAVE * x) + TILT * jnp.cos(x))
    return Evaluation(jnp.zeros(len(x)), force, jnp.asarray(False))


def hermite(z: np.ndarray, degree: int) -> np.ndarray:
    """Hermite polynomials (degree + 1, n) at z (n,), orthonormal under the standard normal."""
    rows = [np.ones_like(z), z]
    for k in range(1, degree):
        rows.append((z * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows)


def normal_rule(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the standard normal."""
    z, w = hermegauss(n)
    return z, w / w.sum()


def stationary_square(integrator: Integrator, monkeypatch, degrees=(26, 8), nodes=(40, 14, 12)) -> float:
    """⟨x²⟩ of the stationary distribution of the integrator's own step."""
    width = np.sqrt(KT), np.sqrt(MASS * KT)
    rules = [normal_rule(n) for n in nodes]
    z, q, noise = (grid.ravel() for grid in np.meshgrid(*(rule[0] for rule in rules), indexing="ij"))
    weight = np.einsum("i,j,k->ijk", *(rule[1] for rule in rules)).ravel()
    with monkeypatch.context() as patch:
        patch.setattr(langevin.noise, "normal", lambda key, shape, dtype: jnp.asarray(noise[:, None]))
        pair = integrator.pair(evaluate, jnp.full((1, 1), MASS), jnp.full((1, 1), KT), graphs_of(len(z), 1))
        x, p = jnp.asarray(width[0] * z[:, None]), jnp.asarray(width[1] * q[:, None])
        after = pair.step(jax.random.key(0), State(x, p, evaluate(None, x)), None)
    new_z, new_q = (
        np.asarray(a)[:, 0] / s for a, s in zip((after.positions, after.momenta), width, strict=True)
    )

    def basis(z, q):
        return np.einsum("an,bn->abn", hermite(z, degrees[0]), hermite(q, degrees[1])).reshape(-1, len(z))

    kernel = (basis(new_z, new_q) * weight) @ basis(z, q).T  # ∫ G φ_j E[φ_k(step)]
    kernel -= np.eye(len(kernel))
    # its first row is zero, as φ_0 = 1 is conserved: the norm takes its place
    kernel[0] = 0.0
    kernel[0, 0] = 1.0
    density = np.linalg.solve(kernel, np.eye(len(kernel))[0]).reshape(degrees[0] + 1, degrees[1] + 1)
    return KT * float(density[0, 0] + math.sqrt(2.0) * density[2, 0])  # z² = 1 + √2 φ_2


def exact_square() -> float:
    def weight(x: float) -> float:
        return math.exp(-potential(x) / KT)

    return quad(lambda x: x * x * weight(x), -9, 9)[0] / quad(weight, -9, 9)[0]


def order(make, dt: float, monkeypatch) -> float:
    """log2 of the ratio of the errors of ⟨x²⟩ at dt and dt/2."""
    coarse, fine = (stationary_square(make(h), monkeypatch) - exact_square() for h in (dt, 0.5 * dt))
    return math.log2(coarse / fine)


@dataclass(frozen=True)
class EulerMaruyama:
    """x' = x + h F/(γ m) + sqrt(2 kT h/(γ m)) ξ: of first order."""

    dt: float
    friction: float

    def pair(self, evaluate, mass, kT, graphs) -> Pair:
        def step(key, state, params):
            x = state.positions + self.dt * state.at.forces / (self.friction * mass)
            p = langevin.maxwell_momenta(key, x, mass, kT)
            x = x + math.sqrt(2.0 * self.dt / self.friction) * p / mass
            return State(x, p, evaluate(params, x))

        return Pair(lambda *_: None, step)  # pyright: ignore[reportArgumentType]: never begun


@pytest.mark.parametrize("friction", [0.5, 1.5])
def test_the_configurational_error_of_baoab_is_of_second_order(friction, monkeypatch):
    assert order(lambda h: Langevin(h, friction), 0.4, monkeypatch) == pytest.approx(2.0, abs=0.2)


def test_the_configurational_error_of_brownian_dynamics_is_of_second_order(monkeypatch):
    assert order(lambda h: Brownian(h, 1.0), 0.2, monkeypatch) == pytest.approx(2.0, abs=0.2)


def test_first_order_is_told_from_second(monkeypatch):
    assert order(lambda h: EulerMaruyama(h, 1.0), 0.2, monkeypatch) == pytest.approx(1.0, abs=0.2)


def test_a_bath_of_twice_the_kT_is_found(monkeypatch):
    """The stationary average itself: that of the stated kT to 1e-3, and far from it with another one."""
    assert stationary_square(Langevin(0.1, 1.0), monkeypatch) == pytest.approx(exact_square(), rel=2e-3)
    monkeypatch.setattr("tests.sim.test_step_bias.KT", 2 * KT)
    hot = stationary_square(Langevin(0.1, 1.0), monkeypatch)
    monkeypatch.undo()
    assert abs(hot / exact_square() - 1.0) > 0.3
