"""Correlated series of known autocorrelation time, intervals of known coverage, distances in closed form."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import binom, wasserstein_distance
from scipy.stats import t as student

from cgrefine.observables import compare, statistics
from cgrefine.observables.histogram import bins
from cgrefine.observables.statistics import Estimate, estimate_of_means
from cgrefine.observables.structure import Observable


def ar1(phi, frames, runs, seed=0):
    """(runs, frames) of x' = φ x + noise, unit variance, begun in equilibrium."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(runs, frames)) * math.sqrt(1 - phi**2)
    noise[:, 0] = rng.normal(size=runs)
    return lfilter([1.0], [1.0, -phi], noise, axis=1)


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.95])
def test_autocorrelation_time_of_ar1(phi):
    """(1+φ)/(2(1-φ)), within four of its own standard errors plus the e^-5 that the window leaves out."""
    found = statistics.correlation(list(ar1(phi, 40_000, 3)))
    exact = (1 + phi) / (2 * (1 - phi))
    assert abs(found.time - exact) < 4 * found.stderr + math.exp(-5) * exact
    assert found.stderr < 0.1 * exact and found.reliable
    assert found.effective == pytest.approx(120_000 / (2 * found.time))


def test_stated_error_of_the_time_is_its_spread():
    """Of 60 runs: the spread of the estimate is known to 9 %, the formula leaves out terms of 1/window."""
    found = [statistics.correlation([x]) for x in ar1(0.8, 8000, 60)]
    spread = np.std([c.time for c in found], ddof=1)
    assert spread == pytest.approx(np.mean([c.stderr for c in found]), rel=0.4)


def test_stuck_runs_are_not_independent_frames():
    """Two runs that stay at 0 and 1: about their common mean all is correlated, and the time says so."""
    runs = [0.01 * ar1(0.0, 400, 1, seed)[0] + seed for seed in (0, 1)]
    found = statistics.correlation(runs)
    assert found.time > 50 and not found.reliable and found.effective < 10
    assert statistics.correlation([np.ones(10)]).effective == 0.0


def test_block_errors_reach_the_exact_one():
    """√(2τ/N) of AR(1), to four times the uncertainty of the plateau; single frames say far too little."""
    x = ar1(0.9, 65_536, 1)[0]
    found = statistics.block_errors(x)
    exact = math.sqrt((1 + 0.9) / (1 - 0.9) / 65_536)
    assert found.plateau is not None and found.plateau >= 4
    assert abs(found.stderr[found.plateau] - exact) < 4 * found.uncertainty[found.plateau] + 0.05 * exact
    assert found.stderr[0] < 0.3 * exact and found.length.tolist() == [2**k for k in range(14)]


def test_block_errors_without_a_plateau_say_so():
    assert statistics.block_errors(np.linspace(0.0, 1.0, 1000)).plateau is None
    with pytest.raises(ValueError, match="at least 8"):
        statistics.block_errors(np.zeros(7))


def test_bootstrap_interval_covers_as_often_as_it_can():
    """Of g groups the normal theory of the percentile interval covers 2 T(z √((g-1)/g)) - 1, T Student's.

    400 intervals of 12 groups: the count is binomial, ends of its 99.99 % interval (false alarm 1e-4).
    """
    g, n = 12, 400
    rng = np.random.default_rng(3)
    samples = rng.normal(size=(n, g))
    inside = 0
    for k, sample in enumerate(samples):
        low, high = statistics.percentile_interval(sample[:, None], 0.9, draws=300, seed=k)
        inside += int(low[0] <= 0.0 <= high[0])
    expected = 2 * student.cdf(1.6449 * math.sqrt((g - 1) / g), g - 1) - 1
    low, high = binom.interval(0.9999, n, expected)
    assert low <= inside <= high
    assert inside < binom.ppf(0.999, n, 0.9)  # it cannot claim more than Student's


def test_jackknife_is_the_standard_error_of_a_mean_and_of_a_function():
    means = np.random.default_rng(0).normal(2.0, 0.1, (40, 3))
    plain = Observable("x", "", (3,), lambda x: x)
    found = estimate_of_means(plain, means)
    assert found.stderr == pytest.approx(means.std(0, ddof=1) / math.sqrt(40))
    square = Observable("x", "", (3,), lambda x: x, None, lambda m: m[:1] ** 2)
    of = estimate_of_means(square, means)
    assert of.mean == pytest.approx(means.mean(0)[:1] ** 2)
    assert of.stderr == pytest.approx(2 * means.mean(0)[:1] * found.stderr[:1], rel=0.01)


def test_periodic_earth_movers_distance_goes_the_short_way():
    """170° to -170° is 20°, not 340°; of many masses on a circle the best of all cuts (brute force)."""
    open_grid, ring = (bins(-180.0, 180.0, 5.0, periodic) for periodic in (False, True))
    p, q = np.zeros(74), np.zeros(74)
    p[1 + 70], q[1 + 2] = 1.0, 1.0
    assert compare.wasserstein(p, q, ring) == pytest.approx(20.0)
    assert compare.wasserstein(p, q, open_grid) == pytest.approx(340.0)
    rng = np.random.default_rng(0)
    a, b = (np.concatenate([[0], rng.dirichlet(np.full(12, 0.5)), [0]]) for _ in range(2))
    grid = bins(0.0, 12.0, 1.0, periodic=True)
    x = np.arange(12)
    cuts = [wasserstein_distance(x, x, np.roll(a[1:-1], k), np.roll(b[1:-1], k)) for k in x]
    # the best plan leaves at least one bin boundary uncrossed, where the circle can be cut
    assert compare.wasserstein(a, b, grid) <= min(cuts) + 1e-12
    flow = np.cumsum((a - b)[1:-1])
    assert compare.wasserstein(a, b, grid) == pytest.approx(min(np.abs(flow - f).sum() for f in flow))


def test_divergences_by_hand():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.75, 0.0])
    assert compare.kullback_leibler(p, q, 0.0) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    never = np.array([0.0, 0.0, 1.0])
    # all of p lies where the model never is: ln(n/floor) less the entropy of p
    assert compare.kullback_leibler(p, never, 1e-3) == pytest.approx(math.log(3 / 1e-3) - math.log(2))
    both = compare.jensen_shannon(np.stack([p, p]), np.stack([q, p]))
    assert both == pytest.approx(0.5 * compare.jensen_shannon(p, q)) and both > 0
    assert compare.mean_squared_difference(p, q) == pytest.approx(2 * 0.25**2 / 3)


GRID = bins(0.0, 10.0, 1.0)
HISTOGRAM = Observable("h", "Å", (12,), lambda x: x, GRID)


def drawn(p, groups, frames, rng):
    counts = np.zeros((groups, 12))
    counts[:, 1:-1] = rng.multinomial(frames, p, size=groups)
    return estimate_of_means(HISTOGRAM, counts / frames)


P = np.arange(1.0, 11.0) / 55.0


def test_floor_is_what_samples_of_one_distribution_differ_by():
    """JS of halves of N/2 frames each is (k-1)/8 · 4/N in the mean, k = 10 bins; a fresh model lies below."""
    rng = np.random.default_rng(1)
    found = [compare.compared(HISTOGRAM, drawn(P, 6, 200, rng), drawn(P, 6, 200, rng), 20) for _ in range(40)]
    floor = np.mean([f["jensen_shannon"].floor for f in found])
    value = np.mean([f["jensen_shannon"].value for f in found])
    # the ten splits of one reference share its frames: chi² of 9 degrees, 40 times, 7.5 % standard error
    assert floor == pytest.approx(9 / 8 * 4 / 1200, rel=0.3)
    assert value == pytest.approx(9 / 8 * 2 / 1200, rel=0.3)
    assert np.isfinite([f["jensen_shannon"].floor_spread for f in found]).all()


def test_bootstrap_error_is_the_spread_of_the_distance():
    """W1 of shifted distributions, over 60 repetitions: their spread is known to 9 %, of 10 groups' 24 %."""
    rng = np.random.default_rng(2)
    found = [
        compare.compared(HISTOGRAM, drawn(P, 10, 50, rng), drawn(P[::-1], 10, 50, rng), 60)["wasserstein"]
        for _ in range(60)
    ]
    spread = np.std([f.value for f in found], ddof=1)
    # the plug-in variance of a bootstrap of g members is (g-1)/g of the true one
    assert np.mean([f.stderr for f in found]) == pytest.approx(spread * math.sqrt(0.9), rel=0.35)


def test_single_runs_have_neither_error_nor_floor():
    one = estimate_of_means(HISTOGRAM, np.full((1, 12), 1 / 12))
    found = compare.compared(HISTOGRAM, one, one)["wasserstein"]
    assert found.value == 0.0 and np.isnan([found.stderr, found.floor, found.floor_spread]).all()


@pytest.mark.parametrize(("groups", "ways"), [(2, 1), (3, 3), (4, 3), (5, 10), (6, 10), (30, 50)])
def test_ways_to_halve(groups, ways):
    means = np.arange(float(groups))[:, None]
    found = compare.halved(means, 50, np.random.default_rng(0))
    assert len(found) == ways
    half = groups // 2
    for a, b in found:
        assert a[0] * half + b[0] * (groups - half) == pytest.approx(means.sum())
    if ways < 50:
        assert len(
            {frozenset((round(a[0] * half, 6), round(b[0] * (groups - half), 6))) for a, b in found}
        ) > (ways // 3)


def test_contacts_are_compared_by_their_differences():
    contacts = Observable("contacts", "", (3,), lambda x: x)
    p = Estimate(np.zeros(3), np.zeros(3), np.zeros((2, 3)))
    q = Estimate(np.ones(3), np.zeros(3), np.array([[1.0, 1, 0], [1, 0, 0]]))
    found = compare.compared(contacts, p, q)
    assert set(found) == {"mean_absolute", "mse"}
    assert found["mean_absolute"].value == pytest.approx(0.5)
    assert found["mse"].value == pytest.approx((1 + 0.25) / 3)


def test_floor_of_each_entry_is_the_mean_difference_of_the_halves():
    """Runs of 0, 1, 3 and 10, squared after the mean: three ways to halve them, by hand; none of one run."""
    square = Observable("square", "", (1,), lambda x: x, of_mean=np.square)
    runs = np.array([0.0, 1.0, 3.0, 10.0])[:, None]
    pairs = [(0.5, 6.5), (1.5, 5.5), (5.0, 2.0)]
    expected = np.mean([abs(a * a - b * b) for a, b in pairs])
    assert compare.floor_of_entries(square, estimate_of_means(square, runs)) == pytest.approx([expected])
    assert np.isnan(compare.floor_of_entries(square, estimate_of_means(square, runs[:1]))).all()
