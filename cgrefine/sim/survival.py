"""Statistics of survival: curves, hazards, exact bounds, and comparisons of groups of replicas (numpy).

A replica is a time and whether it failed then; one that did not is right-censored: observation ended.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import beta, binom, chi2, norm

Decision = Literal["stable", "unstable", "not decided"]


class Survival(NamedTuple):
    """Kaplan-Meier: the surviving fraction (k,) just after each failure time (k,) ps, in order.

    low, high (k,): its pointwise interval; at_risk, failures (k,): replicas observed until then, and failed.
    """

    times_ps: np.ndarray
    surviving: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_risk: np.ndarray
    failures: np.ndarray


class Median(NamedTuple):
    """Median survival, ps; `reached` False: more than half survived, and the value is a lower bound."""

    value_ps: float
    reached: bool


class Interval(NamedTuple):
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """A statistic, its degrees of freedom or number of informative pairs, and the p-value."""

    statistic: float
    count: int
    p: float


def kaplan_meier(times_ps: np.ndarray, failed: np.ndarray, confidence: float = 0.95) -> Survival:
    """Surviving fraction from times (r,) of failure, or of the end of observation where `failed` is False.

    A replica whose observation ends at the time of another's failure counts as at risk then.
    Kaplan & Meier, J. Am. Stat. Assoc. 53, 457 (1958). The interval is S^exp(±z s) with
    s² = Σ d/(n(n - d)) / ln² S: Greenwood's variance of ln S carried to ln(-ln S), so that it stays in
    [0, 1]; Kalbfleisch & Prentice, The Statistical Analysis of Failure Time Data, eq. 1.13 f. (1980).
    Where none is left, low is 0 and high is that of the time before: survival never rises.
    For one criterion of several, `failed` is True for failures by it alone: the others then count as
    censored, and the curve is of the cause-specific hazard (see `cumulative_incidence`).
    """
    times, failed = np.asarray(times_ps, float), np.asarray(failed, bool)
    events = np.unique(times[failed])
    at_risk = np.array([(times >= t).sum() for t in events], int)
    failures = np.array([(failed & (times == t)).sum() for t in events], int)
    surviving = np.cumprod(1.0 - failures / at_risk) if len(events) else events
    low, high = _log_log_interval(surviving, at_risk, failures, confidence)
    return Survival(events, surviving, low, high, at_risk, failures)


def _log_log_interval(
    surviving: np.ndarray, at_risk: np.ndarray, failures: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    some = surviving > 0.0
    left = np.where(some, at_risk - failures, 1)
    greenwood = np.cumsum(np.where(some, failures / (at_risk * left), 0.0))
    log_surviving = np.log(np.where(some, surviving, 0.5))
    spread = norm.ppf(0.5 + 0.5 * confidence) * np.sqrt(greenwood) / np.abs(log_surviving)
    low = np.where(some, np.exp(log_surviving * np.exp(spread)), 0.0)
    high = np.where(some, np.exp(log_surviving * np.exp(-spread)), 1.0)
    if len(high) and not some[-1]:
        high[-1] = high[-2] if len(high) > 1 else 1.0
    return low, high


def cumulative_incidence(times_ps: np.ndarray, causes: np.ndarray, cause: int) -> Survival:
    """Fraction that has failed by one cause among competing ones (Aalen-Johansen), at its failure times.

    causes (r,): 0 where observation ended without a failure. I(t) = Σ S(t_i-) d_cause(t_i)/n(t_i), with S the
    survival of all causes; the incidences of all causes sum to 1 - S. `surviving` is 1 - I; no interval.
    Aalen & Johansen, Scand. J. Stat. 5, 141 (1978).
    """
    times, causes = np.asarray(times_ps, float), np.asarray(causes, int)
    every = kaplan_meier(times, causes != 0)
    before = np.r_[1.0, every.surviving[:-1]] if len(every.times_ps) else every.surviving
    mine = np.array([((causes == cause) & (times == t)).sum() for t in every.times_ps], int)
    incidence = np.cumsum(before * mine / every.at_risk) if len(mine) else before
    at = mine > 0
    none = np.full(int(at.sum()), np.nan)
    return Survival(every.times_ps[at], 1.0 - incidence[at], none, none, every.at_risk[at], mine[at])


def median_survival(times_ps: np.ndarray, failed: np.ndarray) -> Median:
    """First time at which no more than half survive; else the longest observation, as a lower bound."""
    curve = kaplan_meier(times_ps, failed)
    below = curve.surviving <= 0.5
    if below.any():
        return Median(float(curve.times_ps[np.argmax(below)]), True)
    return Median(float(np.max(times_ps)), False)


def hazard(failures: int, exposure: float, confidence: float) -> Interval:
    """Failures per unit of exposure (the time that all replicas lived, summed), with its exact interval.

    Poisson counts: low = χ²(α/2; 2d)/2T, high = χ²(1 - α/2; 2d + 2)/2T. Garwood, Biometrika 28, 437 (1936).
    A constant hazard is assumed. Raises ValueError without exposure.
    """
    if exposure <= 0.0:
        raise ValueError(f"a hazard needs an exposure above 0, found {exposure}")
    tail = 0.5 * (1.0 - confidence)
    low = float(chi2.ppf(tail, 2 * failures)) / (2 * exposure) if failures else 0.0
    return Interval(failures / exposure, low, float(chi2.ppf(1 - tail, 2 * failures + 2)) / (2 * exposure))


def clopper_pearson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Exact interval of a proportion: it covers the truth at least as often as it says, at any number.

    Clopper & Pearson, Biometrika 26, 404 (1934). Raises ValueError without trials.
    """
    if trials < 1:
        raise ValueError("a proportion of no trials has no interval")
    tail, k, n = 0.5 * (1.0 - confidence), successes, trials
    low = float(beta.ppf(tail, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(1.0 - tail, k + 1, n - k)) if k < n else 1.0
    return low, high


def wilson_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion: shorter than the exact one, and right on average only.

    Differences of two proportions are made of it (Newcombe), not verdicts. Wilson, J. Am. Stat. Assoc. 22,
    209 (1927). Raises ValueError without trials.
    """
    if trials < 1:
        raise ValueError("a proportion of no trials has no interval")
    z = float(norm.ppf(0.5 + 0.5 * confidence))
    p = successes / trials
    centre = p + z * z / (2 * trials)
    half = z * np.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    scale = 1 + z * z / trials
    return float(max(0.0, (centre - half) / scale)), float(min(1.0, (centre + half) / scale))


def decision(failures: int, replicas: int, healthy: float, tolerated: float, level: float) -> Decision:
    """Whether a model is stable, unstable, or not known to be either, from failures of its replicas.

    Stable: its fraction of failures is at most `tolerated`, by the one-sided Clopper-Pearson bound at
    1 - level. Unstable: it is not, and the fraction is above `healthy` by the same bound on the other side.
    So a model that fails as rarely as `healthy` is called unstable, and one that fails more often than
    `tolerated` stable, with a probability of at most `level` each, however many replicas there are: the two
    risks of acceptance sampling (Dodge & Romig, Bell Syst. Tech. J. 8, 613 (1929)).
    """
    low, high = clopper_pearson(failures, replicas, 1.0 - 2.0 * level)
    return "stable" if high <= tolerated else "unstable" if low > healthy else "not decided"


def replicas_to_decide(tolerated: float, level: float) -> int:
    """Replicas of which none may fail for `decision` to be "stable": (1 - tolerated)^n ≤ level."""
    return int(np.ceil(np.log(level) / np.log1p(-tolerated)))


def log_rank(times_ps: Sequence[np.ndarray], failed: Sequence[np.ndarray]) -> Comparison:
    """Whether k ≥ 2 groups of replicas fail alike: χ² with k - 1 degrees of freedom.

    At each failure time, observed failures minus those expected if all groups had the same hazard, with the
    hypergeometric covariance. Mantel, Cancer Chemother. Rep. 50, 163 (1966); Peto & Peto, J. R. Stat. Soc. A
    135, 185 (1972). Without any failure the statistic is 0 and p is 1; a group with none at risk when others
    fail takes a degree of freedom away. Raises ValueError with fewer than two groups.
    """
    times = [np.asarray(t, float) for t in times_ps]
    known = [np.asarray(f, bool) for f in failed]
    k = len(times)
    if k < 2:
        raise ValueError(f"the log-rank test compares two groups or more, found {k}")
    events = np.unique(np.concatenate([t[f] for t, f in zip(times, known, strict=True)]))[:, None]
    n = np.stack([(own >= events).sum(axis=1) for own in times], axis=1)
    own = np.stack([(f & (t == events)).sum(axis=1) for t, f in zip(times, known, strict=True)], axis=1)
    total, d = n.sum(axis=1), own.sum(axis=1)
    share = n / total[:, None]
    excess = (own - d[:, None] * share).sum(axis=0)
    weight = d * (total - d) / np.maximum(total - 1, 1)
    covariance = np.diag(weight @ share) - np.einsum("e,ei,ej->ij", weight, share, share)
    inverse = np.linalg.pinv(covariance[1:, 1:], hermitian=True)
    dof = int(np.linalg.matrix_rank(covariance[1:, 1:], hermitian=True))
    statistic = float(excess[1:] @ inverse @ excess[1:])
    return Comparison(statistic, dof, float(chi2.sf(statistic, dof)) if dof else 1.0)


def mcnemar(failed: np.ndarray, other_failed: np.ndarray) -> Comparison:
    """Whether two models fail alike over the same (r,) starts: exact, two-sided.

    Only pairs of which one failed tell; under the null each is a fair coin. statistic: those in which the
    first failed alone. McNemar, Psychometrika 12, 153 (1947), with the binomial in place of χ².
    """
    a, b = np.asarray(failed, bool), np.asarray(other_failed, bool)
    return _fair_coin(int((a & ~b).sum()), int((a != b).sum()))


def paired_sign(
    times_ps: np.ndarray, failed: np.ndarray, other_ps: np.ndarray, other_failed: np.ndarray
) -> Comparison:
    """Whether one of two models lives longer from the same (r,) starts: sign test of paired survival times.

    A pair tells when the order is known: the shorter time is a failure, and not that of a draw. statistic:
    pairs in which the first failed before the other. Exact, two-sided; Dixon & Mood, J. Am. Stat. Assoc. 41,
    557 (1946); which pairs are known: Gehan, Biometrika 52, 203 (1965).
    """
    a, b = np.asarray(times_ps, float), np.asarray(other_ps, float)
    first = np.asarray(failed, bool) & (a < b)
    second = np.asarray(other_failed, bool) & (b < a)
    return _fair_coin(int(first.sum()), int(first.sum() + second.sum()))


def _fair_coin(heads: int, tosses: int) -> Comparison:
    """Two-sided exact test of a fair coin: twice the smaller tail, at most 1."""
    tail = float(binom.cdf(min(heads, tosses - heads), tosses, 0.5))
    return Comparison(float(heads), tosses, min(1.0, 2.0 * tail))
