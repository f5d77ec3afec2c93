"""`cgrefine audit`: how stable the simulations were, with intervals, and whether the energy is conserved."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cgrefine import units
from cgrefine.artifacts import Stage, read_json, write_json
from cgrefine.cli.audit_ensemble import Doubt, doubt
from cgrefine.cli.console import Console
from cgrefine.cli.force_field import simulated
from cgrefine.cli.simulate import Outcome, Replica, packed, read_outcomes
from cgrefine.config.running import Audit, Sim
from cgrefine.config.schema import Config
from cgrefine.data.store import open_dataset
from cgrefine.interop.opened import Modelled
from cgrefine.report.page import Section, Table, figure, save_figure, write_page
from cgrefine.sim import audit
from cgrefine.sim.audit import Estimate, Median, Survival
from cgrefine.sim.trajectory import read_frames
from cgrefine.status import REASONS, Status


@dataclass(frozen=True)
class Verdict:
    """Stability of the Langevin replicas. times_ps: of failure, or of the end where there was none."""

    sentence: str
    stable: int
    interval: tuple[float, float]
    survival: Survival
    median: Median
    temperature: Estimate
    duration_ps: float


@dataclass(frozen=True)
class Drift:
    """Constant-energy run: time (s,), deviation (s, r) kcal/mol, slope (r,) kcal/mol/ns, status (r,)."""

    replicas: Sequence[Replica]
    time_ps: np.ndarray
    deviation: np.ndarray
    slope: np.ndarray
    status: np.ndarray

    @property
    def mean(self) -> Estimate:
        """Mean slope over the replicas that lived, and its standard error."""
        return audit.mean_and_stderr(self.slope)


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/, train/forcefield and simulate/; write audit.json, figures and report.html."""
    sim, cfg = config.sim, config.audit
    assert sim is not None
    found = read_outcomes(root / "simulate" / "replicas.csv")
    duration = read_json(root / "simulate" / "metrics.json")["metrics"]["duration_ps"]["value"]
    verdict = judged(found, duration, cfg.confidence)
    force_field = simulated(root, sim.temperature_K, console)
    drift = conserved(force_field, nve_replicas(found, root, cfg.nve_replicas), sim, cfg, console)
    doubtful = doubt(root, found, sim.temperature_K)
    _record(stage, verdict, drift, found, sim, cfg)
    content = _content(verdict, drift, found, cfg)
    sections = []
    if doubtful is not None:
        stage.record.metric("disagreement_ratio", doubtful.ratio)
        content["ensemble"] = {
            "ratio": doubtful.ratio,
            "frames": doubtful.frames,
            "validation_kcal_mol_A": doubtful.validation._asdict(),
            "simulated_kcal_mol_A": doubtful.simulated._asdict(),
        }
        sections.append(_ensemble_section(doubtful, cfg))
        if doubtful.ratio > cfg.max_disagreement_ratio:
            console.result(f"warning: {sections[-1].text}")
    write_json(stage.path / "audit.json", content)
    _write_report(stage, verdict, drift, found, sections)
    console.say(verdict.sentence)


def _ensemble_section(found: Doubt, cfg: Audit) -> Section:
    far = found.ratio > cfg.max_disagreement_ratio
    text = (
        f"Members of the ensemble disagree about forces {found.ratio:.2f} times as much on simulated "
        f"frames as on validation frames; up to {cfg.max_disagreement_ratio:g} is usual. "
        + (
            "The simulation has gone where they know little: look at it before it is believed."
            if far
            else "The simulation stayed where they agree."
        )
    )
    columns = ("frames", "RMS, kcal/mol/Å", "median", "95th percentile", "largest")
    rows = [("validation", *found.validation), (f"{found.frames} simulated", *found.simulated)]
    return Section("Ensemble", text, Table(columns, rows))


def judged(found: Sequence[Outcome], duration_ps: float, confidence: float) -> Verdict:
    """The statistics of the replicas of a simulation of given length."""
    times = np.array([duration_ps if o.failed_at_ps is None else o.failed_at_ps for o in found])
    failed = np.array([not o.stable for o in found])
    stable = int((~failed).sum())
    return Verdict(
        sentence=audit.sentence(stable, len(found), duration_ps, confidence),
        stable=stable,
        interval=audit.wilson_interval(stable, len(found), confidence),
        survival=audit.kaplan_meier(times, failed),
        median=audit.median_survival(times, failed),
        temperature=audit.mean_and_stderr(np.array([o.temperature_K for o in found], float)),
        duration_ps=duration_ps,
    )


def nve_replicas(found: Sequence[Outcome], root: Path, count: int) -> list[Replica]:
    """Starts of the constant-energy run: last good frames, stable replicas first, spread over the domains."""
    dataset = open_dataset(root / "prepare")
    ranked = sorted(found, key=lambda o: (not o.stable, o.replica))
    pdb = root / "simulate" / "topology"
    return [
        Replica(
            dataset.domain(o.domain),
            o.replica,
            read_frames(root / "simulate" / o.trajectory, pdb / f"{o.domain}.pdb")[-1],
        )
        for o in ranked[:count]
    ]


def conserved(
    force_field: Modelled, replicas: Sequence[Replica], sim: Sim, cfg: Audit, console: Console
) -> Drift:
    """Velocity Verlet from these positions, with momenta at the temperature of the simulation."""
    system, limits = packed(replicas, sim.criteria, sim.temperature_K)
    time_ps, total, alive, status = audit.constant_energy_run(
        force_field.model,
        force_field.params,
        system,
        np.concatenate([r.start for r in replicas]),
        np.full(len(replicas), units.thermal_energy(sim.temperature_K)),
        seed=sim.seed,
        dt=units.from_fs(cfg.nve_timestep_fs),
        duration=units.from_fs(1000.0 * cfg.nve_duration_ps),
        cutoff_A=force_field.model.cutoff_A,
        limits=limits,
        watch=lambda chunks: console.track(chunks, label="energy conservation"),
    )
    deviation = np.where(alive, total - total[:1], np.nan)
    return Drift(replicas, time_ps, deviation, audit.energy_drifts(time_ps, total, alive), status)


def _record(
    stage: Stage, verdict: Verdict, drift: Drift, found: Sequence[Outcome], sim: Sim, cfg: Audit
) -> None:
    record, temperature = stage.record, verdict.temperature
    record.metric("stable_fraction", verdict.stable / len(found))
    record.metric("stable_fraction_low", verdict.interval[0])
    record.metric("stable_fraction_high", verdict.interval[1])
    record.metric("replicas", len(found))
    record.metric("duration_ps", verdict.duration_ps, unit="ps")
    record.metric("median_survival_ps", verdict.median.value_ps, unit="ps")
    record.metric("median_survival_reached", float(verdict.median.reached))
    record.metric("temperature_K", temperature.value, unit="K", stderr=temperature.stderr)
    record.metric("nve_drift_kcal_mol_ns", drift.mean.value, unit="kcal/mol/ns", stderr=drift.mean.stderr)
    unstable = 1.0 - verdict.stable / len(found)
    record.check(
        "unstable_fraction", unstable <= cfg.max_unstable_fraction, unstable, cfg.max_unstable_fraction
    )
    error = temperature_error(temperature, sim.temperature_K)
    limit = cfg.max_temperature_error_fraction
    record.check("temperature_error_fraction", error <= limit, error, limit)


def temperature_error(found: Estimate, wanted_K: float) -> float:
    """What two standard errors leave of the deviation from the wanted temperature, as a fraction of it.

    So a short run fails for a wrong thermostat, not for being short. One replica alone has no error bar.
    """
    noise = 2.0 * found.stderr if math.isfinite(found.stderr) else 0.0
    return max(0.0, abs(found.value - wanted_K) - noise) / wanted_K


def _content(verdict: Verdict, drift: Drift, found: Sequence[Outcome], cfg: Audit) -> dict[str, Any]:
    return {
        "verdict": verdict.sentence,
        "replicas": [asdict(o) for o in found],
        "stable_fraction": {
            "value": verdict.stable / len(found), "interval": verdict.interval, "confidence": cfg.confidence,
        },
        "median_survival_ps": {
            "value": verdict.median.value_ps, "lower_bound": not verdict.median.reached,
        },
        "survival": verdict.survival._asdict(),
        "temperature_K": verdict.temperature._asdict(),
        "constant_energy": {
            "timestep_fs": cfg.nve_timestep_fs,
            "duration_ps": cfg.nve_duration_ps,
            "precision": "float64",
            "drift_kcal_mol_ns": drift.mean._asdict(),
            "replicas": [
                {
                    "domain": r.domain.name, "replica": r.index, "drift_kcal_mol_ns": slope,
                    "status": Status(int(status)).name,
                }
                for r, slope, status in zip(drift.replicas, drift.slope, drift.status, strict=True)
            ],
        },
    }  # fmt: skip


def _write_report(
    stage: Stage, verdict: Verdict, drift: Drift, found: Sequence[Outcome], more: Sequence[Section]
) -> None:
    curve, energy = _survival_figure(verdict), _energy_figure(drift)
    (stage.path / "figures").mkdir()
    save_figure(stage.path / "figures" / "survival.png", curve)
    save_figure(stage.path / "figures" / "energy.png", energy)
    bound = "" if verdict.median.reached else "at least "
    temperature, mean = verdict.temperature, drift.mean
    failures = [(o.domain, o.replica, o.failed_at_ps, o.reason) for o in found if not o.stable]
    nve = [
        (r.domain.name, r.index, float(slope), REASONS[Status(int(status))])
        for r, slope, status in zip(drift.replicas, drift.slope, drift.status, strict=True)
    ]
    sections = [
        Section(
            "Verdict",
            f"{verdict.sentence}. Median survival {bound}{verdict.median.value_ps:g} ps (Kaplan-Meier, "
            f"replicas alive at the end censored). Kinetic temperature {_with_error(temperature)} K over "
            "replicas, later half of the run.",
            figures=[figure(curve)],
        ),
        Section(
            "First failure of each replica",
            "" if failures else "No replica failed.",
            Table(("domain", "replica", "failed at, ps", "reason"), failures) if failures else None,
        ),
        Section(
            "Energy conservation",
            f"Velocity Verlet in float64 from last good frames: drift {_with_error(mean)} kcal/mol/ns a "
            "replica (mean and standard error of least-squares slopes; replicas that failed have none).",
            Table(("domain", "replica", "drift, kcal/mol/ns", "outcome"), nve),
            [figure(energy)],
        ),
        *more,
    ]
    write_page(stage.path / "report.html", "Stability audit", sections)


def _with_error(estimate: Estimate) -> str:
    if not math.isfinite(estimate.value):
        return "not measurable,"
    return f"{estimate.value:.4g}" + (f" ± {estimate.stderr:.2g}" if math.isfinite(estimate.stderr) else "")


def _survival_figure(verdict: Verdict) -> Figure:
    fig = Figure(figsize=(5, 3), layout="constrained")
    ax = fig.add_subplot()
    times = np.r_[0.0, verdict.survival.times_ps, verdict.duration_ps]
    fraction = np.r_[1.0, verdict.survival.surviving]
    ax.step(times, np.r_[fraction, fraction[-1]], where="post")
    ax.errorbar(
        [verdict.duration_ps], [fraction[-1]], [[max(fraction[-1] - verdict.interval[0], 0.0)],
        [max(verdict.interval[1] - fraction[-1], 0.0)]], fmt="o", capsize=3,
    )  # fmt: skip
    ax.set(xlabel="time, ps", ylabel="surviving fraction", ylim=(-0.02, 1.05))
    return fig


def _energy_figure(drift: Drift) -> Figure:
    fig = Figure(figsize=(5, 3), layout="constrained")
    ax = fig.add_subplot()
    for r, deviation in zip(drift.replicas, drift.deviation.T, strict=True):
        ax.plot(drift.time_ps, deviation, linewidth=0.9, label=f"{r.domain.name} {r.index}")
    ax.set(xlabel="time, ps", ylabel="total energy − start, kcal/mol")
    ax.legend(fontsize=7)
    return fig
