"""What a set of replicas says about stability: proportions, survival, temperature and energy drift.

Numbers with their uncertainty, and no claim past the length of the run (numpy, host side).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import norm

from cgrefine.energy import BeadEnergies
from cgrefine.sim.nve import VelocityVerlet
from cgrefine.sim.rollout import Chunk, Fast, rollout, settings
from cgrefine.sim.stability import Checks
from cgrefine.system import System

THERMALISED_FROM = 0.5
"""Temperatures are averaged from this fraction of the run on: the start was in contact with another model."""


class Estimate(NamedTuple):
    """A mean and its standard error (NaN when it cannot be had)."""

    value: float
    stderr: float


class Survival(NamedTuple):
    """Kaplan-Meier: the surviving fraction (k,) just after each failure time (k,) ps, in order."""

    times_ps: np.ndarray
    surviving: np.ndarray


class Median(NamedTuple):
    """Median survival, ps; `reached` False: more than half survived, and the value is a lower bound."""

    value_ps: float
    reached: bool


def wilson_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Wilson score interval of a proportion: honest for few trials and for 0 or all successes.

    Wilson, J. Am. Stat. Assoc. 22, 209 (1927). Raises ValueError without trials.
    """
    if trials < 1:
        raise ValueError("a proportion of no trials has no interval")
    z = float(norm.ppf(0.5 + 0.5 * confidence))
    p = successes / trials
    centre = p + z * z / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def kaplan_meier(times_ps: np.ndarray, failed: np.ndarray) -> Survival:
    """Surviving fraction from times (r,) of failure, or of the end of observation where `failed` is False.

    A replica whose observation ends at the time of another's failure counts as at risk then.
    Kaplan & Meier, J. Am. Stat. Assoc. 53, 457 (1958).
    """
    times, failed = np.asarray(times_ps, float), np.asarray(failed, bool)
    events = np.unique(times[failed])
    at_risk = np.array([(times >= t).sum() for t in events])
    failures = np.array([(failed & (times == t)).sum() for t in events])
    return Survival(events, np.cumprod(1.0 - failures / at_risk) if len(events) else events)


def median_survival(times_ps: np.ndarray, failed: np.ndarray) -> Median:
    """First time at which no more than half survive; else the longest observation, as a lower bound."""
    curve = kaplan_meier(times_ps, failed)
    below = curve.surviving <= 0.5
    if below.any():
        return Median(float(curve.times_ps[np.argmax(below)]), True)
    return Median(float(np.max(times_ps)), False)


def mean_and_stderr(values: np.ndarray) -> Estimate:
    """Mean over independent replicas, those that are not finite left out, and its standard error."""
    x = np.asarray(values, float)
    x = x[np.isfinite(x)]
    if len(x) == 0:
        return Estimate(math.nan, math.nan)
    return Estimate(float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan)


def thermalised_means(values: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Mean (r,) over the frames (s, r) of the later part of a run in which the replica lived; else NaN."""
    late = np.arange(len(values))[:, None] >= math.floor(THERMALISED_FROM * len(values))
    use = late & alive
    count = use.sum(axis=0)
    total = np.where(use, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def energy_drifts(time_ps: np.ndarray, total: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Slope (r,) of the total energy (s, r) of each replica by least squares, kcal/mol/ns.

    A replica that failed during the run, and a run of fewer than three frames, has NaN.
    """
    t = (np.asarray(time_ps, float) - np.mean(time_ps)) / 1000.0
    if len(t) < 3:
        return np.full(total.shape[1], np.nan)
    whole = alive.all(axis=0)
    e = np.where(whole, total - total[:1], 0.0)
    return np.where(whole, (t[:, None] * e).sum(axis=0) / (t * t).sum(), np.nan)


def sentence(stable: int, replicas: int, duration_ps: float, confidence: float) -> str:
    """The verdict in words, with length, replicas and interval."""
    low, high = wilson_interval(stable, replicas, confidence)
    return (
        f"{stable} of {replicas} replicas stable over {duration_ps:g} ps "
        f"({100 * confidence:g} % interval of the stable fraction: {low:.2f} to {high:.2f})"
    )


def constant_energy_run(
    bead_energies: BeadEnergies,
    params: Any,
    system: System,
    positions: np.ndarray,
    kT: np.ndarray,
    seed: int,
    dt: float,
    duration: float,
    cutoff_A: float,
    limits: Checks,
    watch: Callable[[Any], Any] = lambda chunks: chunks,
    fast: Fast | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Velocity Verlet in float64 from thermal positions (n, 3) with Maxwell momenta at kT (g,).

    dt, duration: internal. Returns time_ps (s,), total energy (s, g), alive (s, g), status (g,).
    In float32 the rounding of the energy would hide the drift. `watch` wraps the iterator of chunks.
    fast: see `rollout`.
    """
    run = settings(duration, duration / 100.0, dt, cutoff_A)
    with jax.enable_x64(True):
        chunks: list[Chunk] = list(
            watch(
                rollout(
                    bead_energies,
                    params,
                    system,
                    np.asarray(positions, np.float64),
                    np.asarray(kT, np.float64),
                    jax.random.key(seed),
                    VelocityVerlet(dt),
                    run,
                    limits,
                    fast,
                )
            )
        )
    return (
        np.concatenate([c.time_ps for c in chunks]),
        np.concatenate([c.potential + c.kinetic for c in chunks]),
        np.concatenate([c.alive for c in chunks]),
        chunks[-1].status,
    )
