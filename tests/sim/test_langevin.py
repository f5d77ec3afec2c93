"""BAOAB and velocity Verlet against what statistical mechanics says."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.sim.langevin import Langevin, maxwell_momenta
from cgrefine.sim.nve import VelocityVerlet
from tests import analytic
from tests.dynamics import KEY, evaluate_with, run

N = 6_000


@pytest.fixture(scope="module")
def well():
    """N beads in a harmonic well, half of them 60 and half 180 g/mol, at half of the largest stable step."""
    k, kT = 3.0, 0.6
    mass = jnp.where(jnp.arange(N) % 2, 60.0, 180.0)
    dt = 1.0 * math.sqrt(60.0 / k)  # stability limit: 2 sqrt(m/k)
    state = run(
        Langevin(dt, 0.3 / dt), evaluate_with(analytic.harmonic), {"k": k}, jnp.zeros((N, 3)), mass,
        jnp.full(N, kT), 120,
    )  # fmt: skip
    return k, kT, mass, state


def test_harmonic_positions_have_no_time_step_error(well):
    """Variance kT/k of both masses, at half the stability limit: four standard errors (6e-5)."""
    k, kT, mass, state = well
    for m in (60.0, 180.0):
        x = np.asarray(state.positions)[np.asarray(mass) == m].ravel()
        assert abs(x.var() - kT / k) < 4 * (kT / k) * math.sqrt(2 / x.size)
        assert abs(x.mean()) < 4 * math.sqrt(kT / k / x.size)


def test_equipartition_needs_the_mass(well):
    """⟨p²⟩ = m kT (1 - h² k/4m) at full steps (BAOAB in a harmonic well). Seen to fail: mass left out."""
    k, kT, mass, state = well
    h2 = 60.0 / k
    for m in (60.0, 180.0):
        p = np.asarray(state.momenta)[np.asarray(mass) == m].ravel()
        expected = m * kT * (1 - h2 * k / (4 * m))
        assert abs(p.var() - expected) < 4 * expected * math.sqrt(2 / p.size)
        assert abs(p.var() - kT) > 40 * kT * math.sqrt(2 / p.size)


def test_asymmetric_well_mean():
    """⟨x⟩ and ⟨x²⟩ of a tilted double well: sign and kT. Five standard errors for 1.8e4 coordinates."""
    a, b, kT, m = 3.0, 0.6, 1.0, 20.0
    x0 = jnp.where(jnp.arange(N)[:, None] % 2, 1.0, -1.0) * jnp.ones((N, 3))
    state = run(
        Langevin(0.35, 0.35), evaluate_with(analytic.asymmetric), {"a": a, "b": b}, x0, jnp.full(N, m),
        jnp.full(N, kT), 800,
    )  # fmt: skip
    x = np.asarray(state.positions).ravel()
    mean, square = (analytic.asymmetric_moment(a, b, kT, power) for power in (1, 2))
    assert abs(x.mean() - mean) < 5 * math.sqrt((square - mean**2) / x.size)
    assert abs((x**2).mean() - square) < 5 * x.std() * math.sqrt(4 / x.size)
    assert mean > 0.3


def test_a_force_of_wrong_sign_is_seen():
    """The check of the check: with the gradient in place of the force, the harmonic well does not confine."""
    state = run(
        Langevin(1.0, 0.3), evaluate_with(analytic.harmonic, wrong=True), {"k": 3.0}, jnp.zeros((100, 3)),
        jnp.full(100, 60.0), jnp.full(100, 0.6), 100,
    )  # fmt: skip
    assert float(jnp.var(state.positions)) > 10 * 0.2


def test_one_step_without_noise_is_that_of_jax_md():
    """At kT = 0 a step is deterministic: the same as BAOAB in jax_md, to rounding."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from jax_md import simulate, space

    k, m, dt, friction = 2.5, 70.0, 0.8, 0.4
    x0 = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    p0 = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)))
    evaluate = evaluate_with(analytic.harmonic)
    pair = Langevin(dt, friction).pair(evaluate, jnp.full((5, 1), m), jnp.zeros((5, 1)))
    state = pair.init(KEY, x0, {"k": k})._replace(momenta=p0)
    ours = pair.step(KEY, state, {"k": k})
    init, apply = simulate.nvt_langevin(
        lambda x, **_: 0.5 * k * jnp.sum(x**2), space.free()[1], dt, kT=0.0, gamma=friction
    )
    theirs = init(KEY, x0, mass=m)
    theirs = apply(theirs.set(momentum=p0))
    np.testing.assert_allclose(ours.positions, theirs.position, rtol=1e-12)
    np.testing.assert_allclose(ours.momenta, theirs.momentum, rtol=1e-12)


def test_beads_without_kT_rest():
    """Padding has kT = 0: no momentum, no noise."""
    kT = jnp.asarray([0.6, 0.0])
    p = maxwell_momenta(KEY, jnp.zeros((2, 3)), jnp.full((2, 1), 50.0), kT[:, None])
    assert np.all(p[1] == 0) and np.all(p[0] != 0)


def test_velocity_verlet_is_of_second_order():
    """The spread of the energy of a harmonic oscillator falls by 4 with half the step; no drift remains."""
    k, m = 3.0, 60.0
    evaluate = evaluate_with(analytic.harmonic)

    def energies(dt, n=200):
        pair = VelocityVerlet(dt).pair(evaluate, jnp.full((3, 1), m), jnp.full((3, 1), 0.6))

        def body(state, _):
            state = pair.step(KEY, state, {"k": k})
            return state, state.at.energies.sum() + (state.momenta**2).sum() / (2 * m)

        first = pair.init(KEY, jnp.ones((3, 3)), {"k": k})
        return np.asarray(jax.lax.scan(body, first, None, int(n / dt))[1])

    coarse, fine = energies(1.0), energies(0.5)
    assert np.ptp(coarse) / np.ptp(fine) == pytest.approx(4.0, rel=0.05)
    half = len(fine) // 2
    assert abs(fine[:half].mean() - fine[half:].mean()) < 0.02 * np.ptp(fine)
