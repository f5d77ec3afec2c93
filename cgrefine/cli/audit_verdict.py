"""What the replicas of a simulation say of the stability of a model, and findings of any check."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cgrefine.cli.replicas import Outcome
from cgrefine.config.running import Audit, Sim
from cgrefine.sim import audit, survival
from cgrefine.sim.audit import Estimate
from cgrefine.sim.survival import Decision, Interval, Median, Survival
from cgrefine.status import Status

STATISTICAL = 5
"""Checks that chance alone can fail: survival, kinetic and configurational temperature, drift, scaling."""


class Finding(NamedTuple):
    """One check: value, standard error and limit (None: none), and whether it passed (None: a statement).

    warning: a statement that asks to be looked at, and does not fail the verdict.
    """

    name: str
    value: float | None
    stderr: float | None
    limit: float | None
    unit: str
    passed: bool | None
    says: str
    warning: bool = False


class Criterion(NamedTuple):
    """Failures by one criterion: number, cause-specific survival (the others censored), what fraction failed
    by it among the others (1 - `incidence.surviving`), and its hazard per ns."""

    failures: int
    survival: Survival
    incidence: Survival
    hazard_per_ns: Interval


@dataclass(frozen=True)
class Verdict:
    """Stability of the Langevin replicas. times_ps (r,): of failure, or of the end where there was none.

    interval: Clopper-Pearson, of the stable fraction; wilson: Wilson's, of which differences are made.
    criteria: by name of Status, those that failed a replica.
    """

    sentence: str
    stable: int
    times_ps: np.ndarray
    failed: np.ndarray
    interval: tuple[float, float]
    wilson: tuple[float, float]
    survival: Survival
    median: Median
    hazard_per_ns: Interval
    criteria: Mapping[str, Criterion]
    temperature: Estimate
    measured: int
    duration_ps: float


def judged(found: Sequence[Outcome], duration_ps: float, confidence: float) -> Verdict:
    """The statistics of the replicas of a simulation of given length."""
    times = np.array([duration_ps if o.failed_at_ps is None else o.failed_at_ps for o in found])
    causes = np.array([int(Status[o.status]) for o in found])
    failed = causes != Status.OK
    stable, n = int((~failed).sum()), len(found)
    exposure_ns = max(float(times.sum()), np.finfo(float).tiny) / 1000.0
    temperatures = np.array([o.temperature_K for o in found], float)
    return Verdict(
        sentence=audit.sentence(stable, n, duration_ps, confidence),
        stable=stable,
        times_ps=times,
        failed=failed,
        interval=survival.clopper_pearson(stable, n, confidence),
        wilson=survival.wilson_interval(stable, n, confidence),
        survival=survival.kaplan_meier(times, failed, confidence),
        median=survival.median_survival(times, failed),
        hazard_per_ns=survival.hazard(n - stable, exposure_ns, confidence),
        criteria={
            Status(int(c)).name: Criterion(
                int((causes == c).sum()),
                survival.kaplan_meier(times, causes == c, confidence),
                survival.cumulative_incidence(times, causes, int(c)),
                survival.hazard(int((causes == c).sum()), exposure_ns, confidence),
            )
            for c in np.unique(causes[failed])
        },
        temperature=audit.mean_and_stderr(temperatures),
        measured=int(np.isfinite(temperatures).sum()),
        duration_ps=duration_ps,
    )


def level(cfg: Audit) -> float:
    """Chance of a false alarm of one statistical check: an equal share of what all may have (Bonferroni)."""
    return cfg.false_alarm / STATISTICAL


def decided(verdict: Verdict, cfg: Audit) -> Decision:
    """Stable, unstable, or not decided: see `survival.decision`."""
    replicas = len(verdict.failed)
    limits = cfg.healthy_unstable_fraction, cfg.max_unstable_fraction
    return survival.decision(replicas - verdict.stable, replicas, *limits, level(cfg))


def survival_finding(verdict: Verdict, cfg: Audit) -> Finding:
    """The verdict on the fraction of unstable replicas."""
    n, word = len(verdict.failed), decided(verdict, cfg)
    unstable = 1.0 - verdict.stable / n
    needed = survival.replicas_to_decide(cfg.max_unstable_fraction, level(cfg))
    says = {
        "stable": f"at most {cfg.max_unstable_fraction:g} of the replicas fail within this length",
        "unstable": f"more than {cfg.healthy_unstable_fraction:g} of the replicas fail within this length",
        "not decided": f"{n} replicas cannot tell; {needed} of which none fails would show stability",
    }[word]
    passed = word == "stable" or (word == "not decided" and not cfg.undecided_fails)
    return Finding("unstable_fraction", unstable, None, cfg.max_unstable_fraction, "", passed, says)


NO_KINETIC = {
    "nve": "constant-energy dynamics has no thermostat: the kinetic temperature is not judged",
    "brownian": "overdamped dynamics has no momenta of its own: the kinetic temperature is not judged",
}
"""Integrators whose kinetic temperature says nothing of the sampling, and why."""


def temperature_finding(verdict: Verdict, sim: Sim, cfg: Audit) -> Finding:
    """The kinetic temperature against that of the thermostat, where there is one."""
    name, limit = "temperature_error_fraction", cfg.max_temperature_error_fraction
    if sim.integrator in NO_KINETIC:
        return Finding(name, None, None, limit, "", None, NO_KINETIC[sim.integrator])
    return temperature_check(
        name, verdict.temperature, verdict.measured, sim.temperature_K, limit, cfg, "kinetic temperature"
    )


def temperature_check(
    name: str, found: Estimate, replicas: int, wanted_K: float, limit: float, cfg: Audit, what: str
) -> Finding:
    """What noise leaves of the relative deviation of a temperature, so that no run fails for its length."""
    if not np.isfinite(found.value):
        return Finding(name, None, None, limit, "", None, f"{what}: no replica lived long enough")
    error = audit.excess(found, wanted_K, audit.allowed_errors(level(cfg), replicas)) / wanted_K
    stderr = found.stderr / wanted_K if np.isfinite(found.stderr) else None
    says = f"{what} {with_error(found)} K, {wanted_K:g} K wanted; the value is what noise does not explain"
    return Finding(name, error, stderr, limit, "", error <= limit, says)


def with_error(estimate: Estimate) -> str:
    """Value ± standard error as text."""
    if not np.isfinite(estimate.value):
        return "not measurable"
    return f"{estimate.value:.4g}" + (f" ± {estimate.stderr:.2g}" if np.isfinite(estimate.stderr) else "")
