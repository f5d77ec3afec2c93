"""Statistics of survival against scipy, closed forms and their stated error rates."""

import numpy as np
import pytest
from scipy import stats

from cgrefine.sim import survival


def sample(n, seed, rate=1.0, end=1.5):
    """Exponential failures, censored at `end` and at random before it, with ties (times to one decimal)."""
    rng = np.random.default_rng(seed)
    fails, leaves = rng.exponential(1 / rate, n), np.minimum(rng.exponential(2.0, n), end)
    return np.ceil(10 * np.minimum(fails, leaves)) / 10, fails <= leaves


def test_kaplan_meier_by_hand():
    """Failures at 1, 3, 4; censored at 3 and 5: 4/5, then 4/5·3/4, then 3/5·1/2."""
    times, failed = np.array([1.0, 3.0, 3.0, 4.0, 5.0]), np.array([True, True, False, True, False])
    curve = survival.kaplan_meier(times, failed)
    np.testing.assert_allclose(curve.times_ps, [1, 3, 4])
    np.testing.assert_allclose(curve.surviving, [0.8, 0.6, 0.3])
    assert curve.at_risk.tolist() == [5, 4, 2] and curve.failures.tolist() == [1, 1, 1]
    assert survival.median_survival(times, failed) == (4.0, True)


@pytest.mark.parametrize("seed", range(3))
def test_kaplan_meier_and_its_interval_are_those_of_scipy(seed):
    times, failed = sample(40, seed)
    curve = survival.kaplan_meier(times, failed, 0.9)
    known = stats.ecdf(stats.CensoredData(times[failed], right=times[~failed])).sf
    np.testing.assert_allclose(curve.surviving, known.evaluate(curve.times_ps), rtol=1e-12)
    interval = known.confidence_interval(0.9, method="log-log")
    np.testing.assert_allclose(curve.low, interval.low.evaluate(curve.times_ps), rtol=1e-9)
    np.testing.assert_allclose(curve.high, interval.high.evaluate(curve.times_ps), rtol=1e-9)


def test_interval_where_none_is_left_keeps_the_bound_before():
    curve = survival.kaplan_meier(np.array([1.0, 2.0, 3.0]), np.ones(3, bool))
    assert curve.surviving[-1] == 0.0 and curve.low[-1] == 0.0 and curve.high[-1] == curve.high[-2] < 1.0
    assert survival.kaplan_meier(np.array([1.0]), np.ones(1, bool)).high.tolist() == [1.0]


def test_median_that_was_not_reached_is_a_lower_bound():
    assert survival.median_survival(np.full(8, 20.0), np.zeros(8, bool)) == (20.0, False)
    rest = np.array([2.0, 20, 20, 20]), np.array([1, 0, 0, 0], bool)
    assert survival.median_survival(*rest) == (20.0, False)


def test_incidences_of_competing_causes_sum_to_what_failed():
    """Rates 1 and 3 without censoring: the first cause takes a quarter in the end, the second the rest."""
    rng = np.random.default_rng(1)
    a, b = rng.exponential(1.0, 4000), rng.exponential(1 / 3, 4000)
    times, causes = np.minimum(a, b), np.where(a < b, 1, 2)
    ends = [survival.cumulative_incidence(times, causes, cause).surviving[-1] for cause in (1, 2)]
    assert abs(1 - ends[0] - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)  # false alarm 6e-5
    assert 2 - sum(ends) == pytest.approx(1.0)
    by_hand = survival.cumulative_incidence(np.array([1.0, 2, 2, 3]), np.array([1, 2, 0, 1]), 1)
    np.testing.assert_allclose(1 - by_hand.surviving, [0.25, 0.25 + 0.5])


def test_cause_specific_curve_censors_the_other_causes():
    """Independent rates 1 and 3: the curve of the first alone is exp(-t), whatever the second does."""
    rng = np.random.default_rng(2)
    a, b = rng.exponential(1.0, 4000), rng.exponential(1 / 3, 4000)
    curve = survival.kaplan_meier(np.minimum(a, b), a < b, 0.9999)
    k = np.searchsorted(curve.times_ps, 0.5)
    assert curve.low[k] < np.exp(-0.5) < curve.high[k]


def test_hazard_interval_is_garwoods():
    """At the bounds, the Poisson tails beyond the observed count are α/2 each (10 %)."""
    value, low, high = survival.hazard(7, 20.0, 0.9)
    assert value == 0.35
    assert stats.poisson.sf(6, low * 20) == pytest.approx(0.05)
    assert stats.poisson.cdf(7, high * 20) == pytest.approx(0.05)
    assert survival.hazard(0, 10.0, 0.95) == (0.0, 0.0, pytest.approx(-np.log(0.025) / 10))
    with pytest.raises(ValueError, match="above 0"):
        survival.hazard(0, 0.0, 0.95)


@pytest.mark.parametrize(("k", "n"), [(10, 10), (0, 10), (5, 10), (31, 32)])
def test_clopper_pearson_is_scipys_exact_interval(k, n):
    found = survival.clopper_pearson(k, n, 0.95)
    known = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert found == pytest.approx((known.low, known.high))


@pytest.mark.parametrize("interval", [survival.clopper_pearson, survival.wilson_interval])
def test_a_proportion_needs_trials(interval):
    with pytest.raises(ValueError, match="no trials"):
        interval(0, 0, 0.95)


@pytest.mark.parametrize(("k", "n"), [(10, 10), (0, 10), (5, 10), (31, 32)])
def test_wilson_interval_is_scipys(k, n):
    known = stats.binomtest(k, n).proportion_ci(0.9, method="wilson")
    assert survival.wilson_interval(k, n, 0.9) == pytest.approx((known.low, known.high))


@pytest.mark.parametrize(("healthy", "tolerated"), [(0.001, 0.05), (0.05, 0.05), (0.01, 0.3)])
@pytest.mark.parametrize("replicas", [5, 18, 64, 500])
def test_decision_keeps_its_level_exactly(healthy, tolerated, replicas):
    """The chance of the wrong word at either limit, summed over the binomial, is within the level."""
    k = np.arange(replicas + 1)
    words = np.array([survival.decision(int(f), replicas, healthy, tolerated, 0.02) for f in k])
    assert stats.binom.pmf(k, replicas, healthy)[words == "unstable"].sum() <= 0.02
    assert stats.binom.pmf(k, replicas, tolerated)[words == "stable"].sum() <= 0.02
    assert words[-1] == "unstable"


def test_decision_at_known_numbers():
    """One of 5 that fails is more than a thousandth of all allows (p = 0.005), one of 50 is not (0.049)."""
    assert survival.decision(1, 5, 0.001, 0.05, 0.01) == "unstable"
    assert survival.decision(1, 50, 0.001, 0.05, 0.01) == "not decided"
    n = survival.replicas_to_decide(0.05, 0.05)
    assert n == 59
    assert survival.decision(0, n, 0.001, 0.05, 0.05) == "stable"
    assert survival.decision(0, n - 1, 0.001, 0.05, 0.05) == "not decided"


@pytest.mark.parametrize("seed", range(3))
def test_log_rank_of_two_groups_is_scipys(seed):
    (a, fa), (b, fb) = sample(30, seed), sample(25, seed + 100, rate=2.0)
    data = [stats.CensoredData(t[f], right=t[~f]) for t, f in ((a, fa), (b, fb))]
    known = stats.logrank(x=data[0], y=data[1])
    found = survival.log_rank([a, b], [fa, fb])
    assert found.statistic == pytest.approx(known.statistic**2) and found.count == 1
    assert found.p == pytest.approx(known.pvalue)


def test_log_rank_of_three_groups_by_hand_and_under_the_null():
    """Three groups of one law: p below 0.1 in a tenth of 600 trials, within four standard errors."""
    rng = np.random.default_rng(5)
    p = []
    for _ in range(600):
        times = [np.minimum(rng.exponential(1.0, n), 1.2) for n in (15, 20, 25)]
        p.append(survival.log_rank(times, [t < 1.2 for t in times]).p)
    assert abs(np.mean(np.array(p) < 0.1) - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 600)
    # one replica each, failing at 1, 2, 3: O - E of the last two is (-1/3 + 1/2, -1/3 - 1/2 + 0)
    found = survival.log_rank([np.array([float(t)]) for t in (1, 2, 3)], [np.ones(1, bool)] * 3)
    u = np.array([1 - 1 / 3 - 1 / 2, 1 - 1 / 3 - 1 / 2 - 1])
    v = np.array([[2 / 9 + 1 / 4, -1 / 9 - 1 / 4], [-1 / 9 - 1 / 4, 2 / 9 + 1 / 4]])
    assert found.statistic == pytest.approx(u @ np.linalg.solve(v, u)) and found.count == 2


def test_log_rank_without_failures_tells_nothing():
    quiet = survival.log_rank([np.full(4, 9.0)] * 2, [np.zeros(4, bool)] * 2)
    assert quiet == (0.0, 0, 1.0)
    with pytest.raises(ValueError, match="two groups"):
        survival.log_rank([np.ones(3)], [np.ones(3, bool)])


def test_mcnemar_is_the_binomial_of_the_discordant_pairs():
    a = np.array([1, 1, 1, 1, 1, 1, 0, 0, 1, 0], bool)
    b = np.array([0, 0, 0, 0, 0, 0, 1, 0, 1, 0], bool)
    found = survival.mcnemar(a, b)
    assert found[:2] == (6.0, 7) and found.p == pytest.approx(stats.binomtest(6, 7).pvalue)
    assert survival.mcnemar(a, a) == (0.0, 0, 1.0)


def test_paired_sign_counts_pairs_of_known_order():
    """Known: 1 < 2 (failed first), 4 > 3 (the other failed), 2 < 5; unknown: both censored, censored first,
    a draw."""
    a, fa = np.array([1.0, 4, 2, 5, 1, 3]), np.array([1, 0, 1, 0, 0, 1], bool)
    b, fb = np.array([2.0, 3, 5, 5, 4, 3]), np.array([1, 1, 0, 0, 1, 1], bool)
    assert survival.paired_sign(a, fa, b, fb)[:2] == (2.0, 3)
    assert survival.paired_sign(a, fa, b, fb).p == pytest.approx(stats.binomtest(2, 3).pvalue)
