"""The time step from bonds: periods known in closed form, curvatures of a known energy, and what is safe."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import units
from cgrefine.energy import BondedTerm, PairTerm, SumOfTerms
from cgrefine.sim.forces import forces_at
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.timestep import PERIOD_FRACTION, bond_curvatures, stiffest_bond, timestep_fs
from cgrefine.system import pack, topology_from_species
from tests.chains import random_chain
from tests.dynamics import evaluate_with, run


def test_two_beads_have_the_period_of_their_reduced_mass():
    k, m1, m2 = 320.0, 57.05, 186.21
    found = stiffest_bond(np.array([k]), np.array([[0, 1]]), np.array([m1, m2]))
    reduced = m1 * m2 / (m1 + m2)
    assert found.period_fs == pytest.approx(units.to_fs(2 * math.pi * math.sqrt(reduced / k)))


@pytest.mark.parametrize("n", [3, 12])
def test_a_uniform_chain_has_its_highest_normal_mode(n):
    """ω = 2 sqrt(k/m) cos(π/2n) for n beads with free ends; a softer bond elsewhere does not matter."""
    k, m = 200.0, 110.0
    i = np.arange(n - 1)
    bonds = np.concatenate([np.stack([i, i + 1], 1), [[n, n + 1]]])
    found = stiffest_bond(np.r_[np.full(n - 1, k), 5.0], bonds, np.full(n + 2, m))
    omega = 2.0 * math.sqrt(k / m) * math.cos(math.pi / (2 * n))
    assert found.period_fs == pytest.approx(units.to_fs(2 * math.pi / omega))
    assert found.bond < n - 1


def test_the_bond_of_light_beads_is_named():
    found = stiffest_bond(
        np.full(3, 200.0), np.array([[0, 1], [1, 2], [2, 3]]), np.array([110, 110, 57, 57.0])
    )
    assert found.bond == 2 and found.masses == (57.0, 57.0)


def test_no_vibration_is_an_error():
    with pytest.raises(ValueError, match="no bond has a positive curvature"):
        stiffest_bond(np.array([-3.0, 0.0]), np.array([[0, 1], [1, 2]]), np.ones(3))


def test_the_step_is_rounded_down_to_half_femtoseconds():
    assert timestep_fs(103.0) == 6.0 and timestep_fs(104.0) == 6.5 and timestep_fs(8.0) == 0.5
    with pytest.raises(ValueError, match="below the smallest"):
        timestep_fs(7.9)


def _spring(params, r, kind):
    return 0.5 * params["k"] * (r - 3.8) ** 2


def _soft(params, r, a, b):
    return params["e"] * (1.0 - (r / 8.0) ** 2) ** 3


def test_curvature_is_that_of_the_hessian_of_the_whole_model():
    """uᵀHu for the unit stretch of each bond, H by automatic differentiation, a pair term included."""
    model = SumOfTerms((BondedTerm("bond", "bond", _spring), PairTerm("pair", 8.0, 2, _soft)))
    params = {"bond": {"k": 150.0}, "pair": {"e": 20.0}}
    n = 7
    top = topology_from_species([0] * n)
    x, copies = random_chain(n, 2), pack([top] * (n - 1))

    def forces(y):
        return forces_at(model, params, copies, y.reshape(-1, 3), 8.0).reshape(y.shape)

    found = bond_curvatures(forces, x, top.bonds, step_A=1e-3)

    def energy(y):
        r = jnp.linalg.norm(y[1:] - y[:-1], axis=1)
        i, j = np.triu_indices(n, 2)
        d = jnp.linalg.norm(y[i] - y[j], axis=1)
        pair = jnp.where(d < 8.0, 20.0 * (1.0 - (d / 8.0) ** 2) ** 3, 0.0)
        return 75.0 * jnp.sum((r - 3.8) ** 2) + pair.sum()

    hessian = np.asarray(jax.hessian(energy)(jnp.asarray(x))).reshape(3 * n, 3 * n)
    for (i, j), value in zip(top.bonds, found, strict=True):
        u = np.zeros((n, 3))
        along = (x[j] - x[i]) / np.linalg.norm(x[j] - x[i])
        u[i], u[j] = -0.5 * along, 0.5 * along
        assert value == pytest.approx(u.ravel() @ hessian @ u.ravel(), rel=1e-4)


def test_the_fraction_is_stable_where_the_limit_is_not():
    """A harmonic bond: the variance is exact at PERIOD_FRACTION, and explodes at 1/3 (over 1/π)."""
    k, m, kT, n = 300.0, 100.0, 0.6, 2000
    period = 2 * math.pi * math.sqrt(m / k)

    def harmonic(params, positions, system, neighbors):
        return 0.5 * k * jnp.sum(positions**2, axis=1)

    def variance(fraction):
        mover = Langevin(fraction * period, 0.5 / period)
        state = run(
            mover, evaluate_with(harmonic), {}, jnp.zeros((n, 3)), jnp.full(n, m), jnp.full(n, kT), 160
        )
        return float(jnp.var(state.positions)) * k / kT

    assert abs(variance(PERIOD_FRACTION) - 1.0) < 4 * math.sqrt(2 / (3 * n))
    assert not variance(1 / 3) < 10.0
