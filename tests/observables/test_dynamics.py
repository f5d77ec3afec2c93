"""Brownian motion of known diffusion, velocities of known correlation, sums done the long way."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from cgrefine.errors import InputError
from cgrefine.observables import dynamics, statistics


def brownian(D, frames, beads, frame_ps, seed):
    """(frames, beads, 3) of variance 2 D_d t in dimension d; far from the origin, where rounding shows."""
    steps = np.random.default_rng(seed).normal(size=(frames, beads, 3)) * np.sqrt(2 * np.array(D) * frame_ps)
    return 1e4 + np.cumsum(steps, axis=0)


def test_msd_and_vacf_are_those_of_plain_sums():
    x = brownian([1.0, 2.0, 3.0], 50, 4, 1.0, 0)
    found = dynamics.mean_squared_displacement(x, 50)
    products = dynamics.velocity_autocorrelation(x - 1e4, 50)
    for lag in (0, 1, 7, 49):
        assert found[lag] == pytest.approx(np.mean((x[lag:] - x[: 50 - lag]) ** 2, axis=(0, 1)), rel=1e-8)
        v = x - 1e4
        assert products[lag] == pytest.approx(np.mean(v[lag:] * v[: 50 - lag], axis=(0, 1)), rel=1e-8)
    with pytest.raises(ValueError, match="51 lags of 50 frames"):
        dynamics.mean_squared_displacement(x, 51)


def test_diffusion_is_that_of_brownian_motion():
    """20 runs of anisotropic D, within four of the error of each dimension that a fit of lags 1..4 has.

    Its slope has a relative variance of at most 2 · 4/(windows · beads · runs): no window is independent of
    the next three (false alarm of three dimensions 2e-4). A factor of two in D is 20 errors away.
    """
    D, frame_ps = np.array([0.5, 1.0, 2.0]), 0.2
    runs = [brownian(D, 200, 5, frame_ps, seed) for seed in range(20)]
    found = dynamics.diffusion(runs, frame_ps, (0.2, 0.8))
    allowed = 4 * D * math.sqrt(2 * 4 / (196 * 5 * 20))
    assert np.all(np.abs(found.D_dimensions - D) < allowed)
    assert abs(found.D - D.mean()) < 4 * found.stderr and found.stderr < 0.03
    assert found.groups == 20 and not found.blocks and found.fit_ps == pytest.approx((0.2, 0.8))
    assert found.msd[1] == pytest.approx(2 * D * frame_ps, rel=0.05)


def test_stated_error_is_the_spread_of_single_runs():
    """Blocks of one run, 40 times: the mean of the squared errors is the variance, known to 22 %."""
    found = [dynamics.diffusion([brownian([1.0] * 3, 200, 2, 1.0, k)], 1.0, (1.0, 3.0)) for k in range(40)]
    assert all(d.blocks and d.groups == statistics.BLOCKS for d in found)
    variance = np.var([d.D for d in found], ddof=1)
    assert np.mean([d.stderr**2 for d in found]) == pytest.approx(variance, rel=4 * 0.25)
    assert np.mean([d.D for d in found]) == pytest.approx(1.0, abs=4 * math.sqrt(variance / 40))


def test_velocities_lose_their_memory_at_the_rate_of_friction():
    """Ornstein-Uhlenbeck: (kT/m) exp(-γt), within four standard errors of N/(2τ) independent values."""
    gamma, dt, variance = 0.5, 0.2, 2.0
    decay = math.exp(-gamma * dt)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2000, 30, 3)) * math.sqrt(variance * (1 - decay**2))
    noise[0] /= math.sqrt(1 - decay**2)
    v = np.asarray(lfilter([1.0], [1.0, -decay], noise, axis=0))
    found = dynamics.velocity_autocorrelation(v, 11)
    independent = 2000 * 30 * (1 - decay**2) / (1 + decay**2)
    assert found == pytest.approx(
        np.repeat(variance * decay ** np.arange(11)[:, None], 3, axis=1),
        abs=4 * variance * math.sqrt(2 / independent),
    )


def test_fit_ranges_that_cannot_be_fitted_are_refused():
    runs = [brownian([1.0] * 3, 20, 1, 1.0, seed) for seed in (0, 1)]
    with pytest.raises(InputError, match="fewer than two lags of frames 1 ps apart"):
        dynamics.diffusion(runs, 1.0, (2.0, 2.5))
    with pytest.raises(InputError, match=r"ends at 25 ps, and the shortest of 2 pieces lasts 19 ps"):
        dynamics.diffusion(runs, 1.0, (2.0, 25.0))
    with pytest.raises(InputError, match="shortest of 5 pieces lasts 3 ps"):
        dynamics.diffusion(runs[:1], 1.0, (1.0, 4.0))
