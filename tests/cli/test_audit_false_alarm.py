"""The verdict's false-alarm rate over 200 healthy runs, with no tolerance but the statistical one."""

import jax
import numpy as np
import pytest
from scipy.stats import binom

from cgrefine import units
from cgrefine.cli.audit_energy import drift_finding, order_finding
from cgrefine.cli.audit_verdict import judged, survival_finding, temperature_check, temperature_finding
from cgrefine.cli.replicas import Outcome
from cgrefine.config.running import Audit, Criteria, Sim
from cgrefine.sim import audit, evaluation
from cgrefine.sim.calibration import highest_kinetic_kT
from cgrefine.sim.configurational import configurational_temperature
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.nve import VelocityVerlet
from cgrefine.sim.rollout import rollout, settings
from cgrefine.sim.stability import checks
from cgrefine.sim.trial import Trial, trial
from cgrefine.status import REASONS, Status
from cgrefine.system import pack
from tests import planted

RUNS, REPLICAS, N, KELVIN = 200, 6, 7, 300.0
CFG = Audit(
    max_temperature_error_fraction=1e-9,
    max_configurational_error_fraction=1e-9,
    max_nve_drift_kcal_mol_ns_bead=1e-9,
    min_scaling_order=2.0,
)
SIM = Sim(temperature_K=KELVIN, friction_per_ps=5.0, replicas=REPLICAS, duration_ps=6.0)
MOST = int(binom.ppf(1 - 1e-4, RUNS, CFG.false_alarm))
"""Alarms among so many runs that a rate at the stated level exceeds with a probability of 1e-4."""


def run_alarms(times_failed, kelvins, config, slopes, orders, wanted_K=KELVIN) -> bool:
    """Whether one run, of values a replica, fails its verdict."""
    found = [
        Outcome("a", r, s.name, REASONS[s], None if s == Status.OK else 0.5, 3, float(k), "")
        for r, (s, k) in enumerate(zip(times_failed, kelvins, strict=True))
    ]
    verdict = judged(found, 1.0, CFG.confidence)
    findings = [
        survival_finding(verdict, CFG),
        temperature_finding(verdict, SIM.model_copy(update={"temperature_K": wanted_K}), CFG),
        temperature_check("t", config, len(found), wanted_K, 1e-9, CFG, ""),
        drift_finding(slopes, CFG),
        order_finding(orders, CFG),
    ]
    return any(f.passed is False for f in findings)


def drawn(rng, failing: float, warmer: float, drift: float, order: float) -> bool:
    """A run drawn from the null (0.001, 1, 0, 2), or one that is off."""
    status = [Status.BOND if u < failing else Status.OK for u in rng.random(REPLICAS)]
    kelvin = warmer * KELVIN * rng.chisquare(60, (2, REPLICAS)) / 60
    config = audit.mean_and_stderr(kelvin[1])
    slopes, orders = rng.normal(drift, 1.0, REPLICAS), rng.normal(order, 0.1, REPLICAS)
    return run_alarms(status, kelvin[0], config, slopes, orders)


def test_false_alarms_of_drawn_runs_are_below_the_stated_level():
    """0.05 over five checks. Each fault planted is seen in most of the runs."""
    rng = np.random.default_rng(0)
    alarms = sum(drawn(rng, 0.001, 1.0, 0.0, 2.0) for _ in range(RUNS))
    assert alarms <= MOST < 0.15 * RUNS
    for fault in (
        (0.5, 1.0, 0.0, 2.0),
        (0.001, 2.0, 0.0, 2.0),
        (0.001, 1.0, 4.0, 2.0),
        (0.001, 1.0, 0.0, 1.0),
    ):
        assert sum(drawn(rng, *fault) for _ in range(RUNS)) > 0.7 * RUNS


def dynamics(kelvin: float, length_ps: float, step_fs: float) -> tuple[Trial, np.ndarray]:
    """All replicas of all runs of the ideal chain in one pack, and their saved frames (s, g, N, 3)."""
    count = RUNS * REPLICAS
    system, limits = packed(count, length_ps / step_fs * 1000)
    start = planted.frames(N, count, units.thermal_energy(KELVIN), 3).reshape(-1, 3).astype(np.float32)
    dt = units.from_fs(step_fs)
    run = settings(units.from_fs(1000 * length_ps), units.from_fs(500.0), dt, planted.REACH_A)
    kT = np.full(count, units.thermal_energy(kelvin), np.float32)
    saved = []
    steps = rollout(
        planted.MODEL, planted.params(N, {}), system, start, kT, jax.random.key(1),
        Langevin(dt, units.from_per_ps(5.0)), run, limits,
    )  # fmt: skip

    def watched():
        for chunk in steps:
            saved.append(chunk.positions)
            yield chunk

    result = trial(watched(), length_ps, step_fs / 1000)
    return result, np.concatenate(saved).reshape(-1, count, N, 3)


def packed(count, steps):
    system = pack([planted.topology(N)] * count)
    criteria = Criteria(max_kinetic_kT=highest_kinetic_kT(count * N * steps), size_limits=False)
    return system, checks(system, np.full(count * (N - 1), planted.R0), criteria)


def alarms(kelvin: float) -> int:
    """Runs of the ideal chain that fail, of 200, simulated at one temperature and judged at 300 K."""
    result, frames = dynamics(kelvin, 6.0, 5.0)
    late = frames[len(frames) // 2 :]
    kelvins = audit.thermalised_means(result.temperature_K, result.alive)
    flat = late.reshape(-1, N, 3)
    found = evaluation.squared_forces_and_laplacian(
        planted.MODEL, planted.params(N, {}), planted.topology(N), flat, planted.REACH_A, 0
    )
    f2, laplacian = (values.reshape(len(late), -1) for values in found)
    system, limits = packed(RUNS * REPLICAS, 1e4)
    slopes, sigma = [], []
    for step_fs in (2.0, 4.0):
        dt, length = units.from_fs(step_fs), units.from_fs(400.0)
        time_ps, total, alive, _ = audit.constant_energy_run(
            planted.MODEL, planted.params(N, {}), system, frames[-1].reshape(-1, 3),
            np.full(RUNS * REPLICAS, units.thermal_energy(KELVIN)), 5, VelocityVerlet(dt),
            settings(length, length / 100, dt, planted.REACH_A), limits,
        )  # fmt: skip
        slopes.append(audit.energy_drifts(time_ps, total, alive) / N)
        sigma.append(audit.fluctuations(total, alive))
    orders = audit.order(sigma[1], sigma[0], 2.0)
    count = 0
    for run in range(RUNS):
        own = slice(run * REPLICAS, (run + 1) * REPLICAS)
        labels = np.tile(np.arange(REPLICAS), len(late))
        config = configurational_temperature(f2[:, own].ravel(), laplacian[:, own].ravel(), labels)
        status = [Status(int(s)) for s in result.status[own]]
        count += run_alarms(status, kelvins[own], config, slopes[0][own], orders[own])
    return count


@pytest.mark.slow
def test_false_alarms_of_simulated_runs_are_below_the_stated_level():
    """200 runs of six replicas of a chain by Langevin and constant-energy dynamics; 15 % hotter is seen."""
    assert alarms(KELVIN) <= MOST
    assert alarms(1.15 * KELVIN) > 0.5 * RUNS
