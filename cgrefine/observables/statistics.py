"""Means with standard errors from independent groups (replicas), and what correlated frames are worth."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cgrefine.observables.structure import Observable, frame_means


class Estimate(NamedTuple):
    """mean, stderr: of what is compared, `of_mean`; stderr is NaN from a single group.

    groups: (g, ...) means of each group, in the shape of the observable.
    """

    mean: np.ndarray
    stderr: np.ndarray
    groups: np.ndarray


def estimate(observable: Observable, groups: Sequence[np.ndarray]) -> Estimate:
    """Mean over groups of frames (each (f, n, 3) Å), each group weighted alike; empty groups are left out.

    The standard error is that of the spread between groups, so correlation within a group is accounted
    for, and that between groups (common start) is not. Raises ValueError when every group is empty.
    """
    kept = [np.asarray(g) for g in groups if len(g)]
    if not kept:
        raise ValueError(f"{observable.name}: no frames to average")
    return estimate_of_means(observable, np.stack([frame_means(observable, g) for g in kept]))


def estimate_of_means(observable: Observable, means: Float[np.ndarray, "groups *shape"]) -> Estimate:
    """The same from the mean of each group.

    Jackknife over groups, because of_mean need not be linear; where it is, the standard error is the standard
    deviation between groups over √g. Efron & Stein, Ann. Stat. 9, 586 (1981).
    """
    g = len(means)
    value = np.asarray(observable.of_mean(means.mean(0)))
    if g == 1:
        return Estimate(value, np.full(value.shape, np.nan), means)
    left_out = np.stack([observable.of_mean((means.sum(0) - m) / (g - 1)) for m in means])
    spread = np.sum((left_out - left_out.mean(0)) ** 2, axis=0)
    return Estimate(value, np.sqrt(spread * (g - 1) / g), means)


BLOCKS = 5
"""Pieces into which a single run is cut where independent groups are needed."""


def independent(runs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """The runs, or BLOCKS pieces of the only one, if it has as many frames.

    Pieces are independent only where they are much longer than the autocorrelation time: say so.
    """
    if len(runs) == 1 and len(runs[0]) >= BLOCKS:
        return np.array_split(runs[0], BLOCKS)
    return runs


class Correlation(NamedTuple):
    """Integrated autocorrelation time, in frames: time = ½ + Σ ρ(t); stderr of it; effective: N/(2 time).

    window: the lag at which the sum ends. reliable: False where the series are shorter than 50 times the
    time, which then is too short itself; NaN time, zero effective size of series that never change.
    """

    time: float
    stderr: float
    effective: float
    window: int
    reliable: bool


RELIABLE_TIMES = 50
"""Autocorrelation times that series must last for their estimate to be believed (Sokal's rule of thumb)."""


def autocovariance(series: Sequence[Float[np.ndarray, " _"]]) -> Float[np.ndarray, " lags"]:
    """Covariance at each lag, mean over all pairs of frames of all series about their common mean.

    The common mean counts runs that are stuck in different places as correlated, which they are.
    Lags up to the shortest series; by FFT, padded so that the ends do not meet.
    """
    mean = float(np.mean(np.concatenate(series)))
    lags = min(map(len, series))
    total, pairs = np.zeros(lags), np.zeros(lags)
    for values in series:
        total += lagged_products(np.asarray(values, np.float64)[:, None] - mean, lags)[:, 0]
        pairs += len(values) - np.arange(lags)
    return total / pairs


def lagged_products(
    values: Float[np.ndarray, "frames columns"], lags: int
) -> Float[np.ndarray, "lags columns"]:
    """Σ_t v(t) v(t + lag) of each column, by FFT, padded to twice the length."""
    frames = len(values)
    spectrum = np.fft.rfft(values, 2 * frames, axis=0)
    return np.fft.irfft(np.abs(spectrum) ** 2, 2 * frames, axis=0)[:lags]


def correlation(series: Sequence[Float[np.ndarray, " _"]], factor: float = 5.0) -> Correlation:
    """Autocorrelation time of one number a frame, over one or several runs, with automatic windowing.

    The sum ends at the first lag M ≥ factor · time(M). Sokal in "Functional Integration", 131 (1997),
    section 3, also for the variance 2(2M + 1)/N · time² of the estimate. For an AR(1) of
    coefficient φ the time is (1 + φ)/(2(1 - φ)).
    """
    covariance = autocovariance(series)
    frames = sum(map(len, series))
    if covariance[0] <= 0.0:
        return Correlation(float("nan"), float("nan"), 0.0, 0, False)
    running = np.cumsum(covariance / covariance[0]) - 0.5
    lag = np.arange(len(running))
    enough = np.flatnonzero(lag >= factor * running)
    window = int(enough[0]) if len(enough) else len(running) - 1
    # an anticorrelated series may reach any value above 0; N_eff is not let above N without evidence
    time = max(float(running[window]), 0.5)
    error = time * float(np.sqrt(2.0 * (2 * window + 1) / frames))
    reliable = bool(len(enough)) and frames >= RELIABLE_TIMES * time
    return Correlation(time, error, frames / (2.0 * time), window, reliable)


class Blocks(NamedTuple):
    """Standard error of a mean by length of block. length, stderr, uncertainty (of stderr): (levels,).

    plateau: index of the first level that no longer one exceeds by more than both their uncertainties, or
    None where stderr still grows: the run is then too short for an error.
    """

    length: Int[np.ndarray, " levels"]
    stderr: Float[np.ndarray, " levels"]
    uncertainty: Float[np.ndarray, " levels"]
    plateau: int | None


MIN_BLOCKS = 8
"""Fewest blocks of a level: with fewer the standard error is known to worse than 27 %."""


def block_errors(series: Float[np.ndarray, " frames"]) -> Blocks:
    """Standard error of the mean of a correlated series from block averages, halving their number each level.

    σ² = c₀/(n - 1) of n blocks, with the relative error 1/√(2(n - 1)) of its root. Flyvbjerg & Petersen,
    J. Chem. Phys. 91, 461 (1989), eq. 28. A last odd frame of a level is left out.
    Raises ValueError for fewer than MIN_BLOCKS frames.
    """
    values = np.asarray(series, np.float64)
    if len(values) < MIN_BLOCKS:
        raise ValueError(f"block errors of {len(values)} frames: at least {MIN_BLOCKS} needed")
    length, stderr, uncertainty = [], [], []
    while len(values) >= MIN_BLOCKS:
        n = len(values)
        error = float(np.sqrt(np.var(values) / (n - 1)))
        length.append(2 ** len(length))
        stderr.append(error)
        uncertainty.append(error / np.sqrt(2.0 * (n - 1)))
        values = 0.5 * (values[: n - n % 2 : 2] + values[1::2])
    s, u = np.array(stderr), np.array(uncertainty)
    # the last level has nothing beyond it to agree with
    flat = [k for k in range(len(s) - 1) if np.all(s[k + 1 :] - u[k + 1 :] <= s[k] + u[k])]
    return Blocks(np.array(length), s, u, flat[0] if flat else None)


def resampled(
    groups: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray | float],
    draws: int,
    seed: int = 0,
) -> Float[np.ndarray, "draws *shape"]:
    """Bootstrap: statistic(*means) with the members of each of `groups` (g, ...) drawn with replacement.

    Each of `groups` is one sample of independent members, such as the replicas of one side; means are those
    of the members drawn. Efron, Ann. Stat. 7, 1 (1979).
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        picked = [g[rng.integers(0, len(g), len(g))].mean(0) for g in groups]
        found.append(np.asarray(statistic(*picked), np.float64))
    return np.stack(found)


def percentile_interval(
    groups: Float[np.ndarray, "groups *shape"], confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the bootstrap percentile interval of the mean over groups.

    With g groups it is narrower than Student's interval, by about √((g - 1)/g) in width and by the normal
    instead of the t quantile: of 20 groups 95 % cover some 93 %, of 5 groups some 85 %.
    """
    g = len(groups)
    times_drawn = np.random.default_rng(seed).multinomial(g, np.full(g, 1.0 / g), size=draws)
    found = np.tensordot(times_drawn / g, groups, axes=1)
    tail = 0.5 * (1.0 - confidence)
    low, high = np.quantile(found, [tail, 1.0 - tail], axis=0)
    return low, high
