"""Surfaces of known free energy, their errors, and TICA against its own eigenvalue problem."""

import math

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.stats import norm

from cgrefine.observables import free_energy
from cgrefine.observables.histogram import bins
from cgrefine.system import topology_from_species

KT = 0.6
X, Y = bins(-2.0, 2.0, 0.5), bins(-3.0, 5.0, 1.0)


def gaussian(frames, seed, shift=0.0):
    """Points of an asymmetric well: x normal about `shift`, y normal about 1 with deviation 1.5."""
    return np.random.default_rng(seed).normal([shift, 1.0], [0.7, 1.5], (frames, 2))


def exact_mass(shift=0.0):
    return np.outer(np.diff(norm.cdf(X.edges, shift, 0.7)), np.diff(norm.cdf(Y.edges, 1.0, 1.5)))


def test_surface_of_a_well_is_that_of_the_cells():
    """20 runs of 2000 frames: -kT ln p within four standard errors kT √((1-p)/(N p)) of every cell."""
    found = free_energy.surface([gaussian(2000, k) for k in range(20)], X, Y, KT)
    p = exact_mass()
    likely = p > 1e-3
    expected = -KT * np.log(p)
    gap = -KT * np.log(np.where(likely, found.mass[1:-1, 1:-1], 1.0)) - expected
    allowed = 4 * KT * np.sqrt((1 - p) / (40_000 * p))
    assert likely.sum() > 40 and np.all(np.abs(gap[likely]) < allowed[likely])
    # of 20 groups the relative error of a standard error is 16 %
    assert np.median(found.stderr[likely] / (allowed[likely] / 4)) == pytest.approx(1.0, abs=0.2)
    assert np.nanmin(found.free_energy) == 0.0
    assert found.outside == pytest.approx(1 - p.sum(), abs=4 * math.sqrt(p.sum() * (1 - p.sum()) / 40_000))
    assert found.mass.sum() == pytest.approx(1.0)


def test_cells_that_were_not_visited_are_masked():
    points = np.array([[0.1, 0.2], [0.1, 0.2], [1.1, 3.2], [9.0, 0.0]])
    found = free_energy.surface([points, points[:2]], X, Y, KT, draws=50)
    assert np.isfinite(found.free_energy).sum() == 2
    assert found.outside == pytest.approx(0.125) and found.mass[-1].sum() == pytest.approx(0.125)
    # half of the runs visit the second cell: (3/4 of the draws), weights 0.75 and 0.125
    assert found.free_energy[6, 6] == pytest.approx(KT * math.log(0.75 / 0.125))
    assert np.isfinite(found.stderr[4, 3])
    alone = free_energy.surface([points], X, Y, KT)
    assert np.isnan(alone.stderr).all()


def test_difference_of_two_wells():
    """A well shifted by s in x differs by kT s (s/2 - x)/σ² and a constant; equal ones by nothing."""
    one = free_energy.surface([gaussian(200_000, 0)], X, Y, KT)
    other = free_energy.surface([gaussian(200_000, 1, shift=0.3)], X, Y, KT)
    found = free_energy.compared(one, other, KT)
    p, q = exact_mass(), exact_mass(0.3)
    likely = (p > 5e-3) & (q > 5e-3)
    assert found.difference[likely] == pytest.approx(
        -KT * np.log(q / p)[likely], abs=6 * KT / math.sqrt(1000)
    )
    assert found.difference[4, 4] < 0 < found.difference[1, 4]
    exact = math.sqrt(np.sum(p * (KT * np.log(q / p)) ** 2) / p.sum())
    assert found.rmse == pytest.approx(exact, rel=0.05) and found.covered == pytest.approx(p.sum(), abs=0.01)
    same = free_energy.compared(one, one, KT)
    assert same.rmse == 0.0 and same.jensen_shannon == pytest.approx(0.0, abs=1e-12)


def slow_and_fast(frames, seed):
    """(frames, 3) mixed from a slow, a middle and a fast AR(1), the fast one with the largest variance."""
    rng = np.random.default_rng(seed)
    x = np.zeros((frames, 3))
    phi = np.array([0.98, 0.9, 0.1])
    for t in range(1, frames):
        x[t] = phi * x[t - 1] + np.sqrt(1 - phi**2) * rng.normal(size=3)
    return (x * np.array([1.0, 1.0, 10.0])) @ np.random.default_rng(9).normal(size=(3, 3)) + 5.0


def test_tica_solves_its_eigenvalue_problem():
    """Reversible estimator: C(lag) v = λ C(0) v of the covariances symmetrised in time, by scipy."""
    runs, lag = [slow_and_fast(1500, k) for k in range(2)], 5
    found = free_energy.tica(runs, lag)
    assert found is not None and found.lag == lag
    before, after = (np.concatenate([r[s] for r in runs]) for s in (slice(None, -lag), slice(lag, None)))
    mean = 0.5 * (before.mean(0) + after.mean(0))
    u, v = before - mean, after - mean
    values, vectors = eigh(u.T @ v + v.T @ u, u.T @ u + v.T @ v)
    assert found.eigenvalues == pytest.approx(values[::-1][:2], rel=1e-6)
    projected, expected = found(runs[0]), (runs[0] - mean) @ vectors[:, ::-1][:, :2]
    for k in range(2):
        assert abs(np.corrcoef(projected[:, k], expected[:, k])[0, 1]) == pytest.approx(1.0, abs=1e-6)
    assert values[-1] == pytest.approx(0.98**lag, abs=0.05)
    # the map is the reference's: other frames do not change it
    assert found(runs[1][:10]) == pytest.approx((runs[1][:10] - found.mean) @ found.components)


def test_tica_of_too_little_is_none():
    assert free_energy.tica([slow_and_fast(5, 0)], 5) is None
    assert free_energy.tica([slow_and_fast(50, 0)[:, :1]], 5) is None


def test_features_of_long_chains_are_thinned():
    assert len(free_energy.tica_pairs(topology_from_species([0] * 20))) == 17 * 18 // 2
    long = free_energy.tica_pairs(topology_from_species([0] * 300))
    assert 200 < len(long) <= free_energy.MAX_FEATURES and long.max() > 280


def test_grids_hold_every_value():
    grid = free_energy.coordinate_grid([np.array([1.0, 3.0]), np.array([2.0, 7.0])], 6)
    assert (grid.low, grid.high, grid.count) == (1.0, 7.0, 6)
    assert free_energy.coordinate_grid([np.full(3, 2.0)], 4).width == 0.25
