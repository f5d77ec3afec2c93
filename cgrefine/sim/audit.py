"""What a set of replicas says about temperature and energy: means, drift and fluctuation.

Numbers with their uncertainty, and no claim past the length of the run (numpy, host side).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import t as student

from cgrefine.energy import BeadEnergies
from cgrefine.sim.kernels import Fast
from cgrefine.sim.langevin import Integrator
from cgrefine.sim.rollout import Chunk, Settings, rollout
from cgrefine.sim.stability import Checks
from cgrefine.sim.survival import clopper_pearson
from cgrefine.system import System

THERMALISED_FROM = 0.5
"""Temperatures are averaged from this fraction of the run on: the start was in contact with another model."""


class Estimate(NamedTuple):
    """A mean and its standard error (NaN when it cannot be had)."""

    value: float
    stderr: float


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
    """What was seen, in words, with length, replicas and the exact interval of the stable fraction."""
    low, high = clopper_pearson(stable, replicas, confidence)
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
    integrator: Integrator,
    run: Settings,
    limits: Checks,
    watch: Callable[[Any], Any] = lambda chunks: chunks,
    fast: Fast | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Dynamics in float64 from thermal positions (n, 3) with Maxwell momenta at kT (g,).

    integrator: one that conserves the energy: velocity Verlet, or BAOAB without friction, which is the same.
    Returns time_ps (s,), total energy (s, g), alive (s, g), status (g,).
    In float32 the rounding of the energy would hide the drift. `watch` wraps the iterator of chunks.
    fast: see `rollout`.
    """
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
                    integrator,
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


def fluctuations(total: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Root mean square deviation (r,) of the total energy (s, r) from its mean, kcal/mol; NaN: it failed."""
    whole = alive.all(axis=0)
    e = np.where(whole, total - total[:1], 0.0)
    return np.where(whole, e.std(axis=0), np.nan)


def order(coarse: np.ndarray, fine: np.ndarray, ratio: float) -> np.ndarray:
    """Order p (r,) of the fluctuations at two time steps, the coarse one `ratio` times the fine: σ ∝ dt^p.

    Velocity Verlet follows the forces of a smooth energy with an error of dt² (Hairer, Lubich & Wanner,
    Acta Numerica 12, 399 (2003)): an order well below 2 means kinks, jumps, or forces that are no gradient.
    """
    return np.log(coarse / fine) / math.log(ratio)


def excess(found: Estimate, wanted: float, errors: float) -> float:
    """What so many standard errors leave of the deviation from a wanted value; all of it without an error."""
    noise = errors * found.stderr if math.isfinite(found.stderr) else 0.0
    return max(0.0, abs(found.value - wanted) - noise)


def allowed_errors(level: float, replicas: int) -> float:
    """Standard errors of a mean of independent replicas that it exceeds with a probability of `level`.

    Two-sided, Student's t: with few replicas the error itself is uncertain. One replica has no error: 0.
    """
    return float(student.ppf(1.0 - 0.5 * level, replicas - 1)) if replicas > 1 else 0.0
