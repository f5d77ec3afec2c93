"""Short runs of the audit at multiples of the time step and of the temperature."""

from cgrefine.cli.audit_plots import Curve, curves
from cgrefine.cli.audit_subject import Part, Subject
from cgrefine.cli.audit_verdict import Finding, with_error
from cgrefine.cli.console import Console
from cgrefine.config.running import Audit
from cgrefine.report.page import Section, Table
from cgrefine.sim import audit, survival
from cgrefine.sim.trial import Trial


def timesteps(subject: Subject, cfg: Audit, console: Console) -> Part:
    """Survival at each time step, from the same starts; the shortest is what the others are tested with."""
    sim, replicas = subject.sim, subject.starts(cfg.scan_replicas)
    steps = [factor * sim.step_fs for factor in sorted(cfg.timestep_factors)]
    runs = [
        subject.lived(
            replicas, sim.temperature_K, step, cfg.scan_duration_ps, console, f"time step {step:g} fs"
        )
        for step in steps
    ]
    tests = [survival.log_rank([runs[0].time_ps, r.time_ps], [runs[0].failed, r.failed]) for r in runs]
    rows, entries = [], []
    for step, run, test in zip(steps, runs, tests, strict=True):
        row, entry = _row(run, cfg.confidence)
        rows.append((step, *row, test.p))
        entries.append({"timestep_fs": step, **entry, "log_rank": test._asdict()})
    count = int(runs[0].failed.sum())
    later = sum(int(r.failed.sum()) for r in runs[1:])
    says = (
        "no replica fails at any time step"
        if count + later == 0
        else f"{count} of {len(replicas)} fail at {steps[0]:g} fs already: the model, not the integration"
        if count
        else f"none fails at {steps[0]:g} fs, some do at longer ones: errors of integration"
    )
    drawn = {f"{step:g} fs": _curve(run, cfg) for step, run in zip(steps, runs, strict=True)}
    plot = curves("Survival at each time step", drawn)
    columns = ("time step, fs", "stable", "interval", "temperature, K", "log-rank p against the shortest")
    value = 1.0 - count / len(replicas)
    finding = Finding("stable_at_shortest_timestep", value, None, None, "", None, says)
    content = {"duration_ps": cfg.scan_duration_ps, "timesteps": entries}
    text = f"{len(replicas)} replicas over {cfg.scan_duration_ps:g} ps at each time step: {says}."
    return Part([finding], content, [Section("Time steps", text, Table(columns, rows), plots=[plot])])


def temperatures(subject: Subject, cfg: Audit, console: Console) -> Part:
    """Survival at each temperature of the thermostat, the force field being that of the simulation's."""
    sim, starts = subject.sim, subject.starts(cfg.scan_replicas)
    wanted = [factor * sim.temperature_K for factor in sorted(cfg.temperature_factors)]
    n = len(starts)
    rows, entries, drawn = [], [], {}
    for kelvin in wanted:
        label = f"temperature {kelvin:g} K"
        run = subject.lived(starts, kelvin, sim.step_fs, cfg.scan_duration_ps, console, label)
        row, entry = _row(run, cfg.confidence)
        rows.append((kelvin, *row))
        drawn[f"{kelvin:g} K"] = _curve(run, cfg)
        entries.append({"thermostat_K": kelvin, **entry})
    stable = [k for k, e in zip(wanted, entries, strict=True) if e["stable"] == n]
    says = f"all {n} replicas live up to {max(stable):g} K" if stable else "replicas fail at each temperature"
    highest = max(stable) if stable else None
    finding = Finding("highest_stable_temperature", highest, None, None, "K", None, says)
    plot = curves("Survival at each temperature", drawn)
    columns = ("thermostat, K", "stable", "interval", "temperature, K")
    text = f"{n} replicas over {cfg.scan_duration_ps:g} ps at each temperature of the thermostat: {says}."
    content = {"duration_ps": cfg.scan_duration_ps, "temperatures": entries}
    return Part([finding], content, [Section("Temperatures", text, Table(columns, rows), plots=[plot])])


def _row(run: Trial, confidence: float) -> tuple[tuple[object, ...], dict]:
    n, stable = len(run.status), int((~run.failed).sum())
    low, high = survival.clopper_pearson(stable, n, confidence)
    kelvin = audit.mean_and_stderr(audit.thermalised_means(run.temperature_K, run.alive))
    entry = {
        "stable": stable, "replicas": n, "interval": (low, high), "failed_at_ps": run.time_ps[run.failed],
        "temperature_K": kelvin._asdict(),
    }  # fmt: skip
    return (f"{stable} of {n}", f"{low:.2f} to {high:.2f}", with_error(kelvin)), entry


def _curve(run: Trial, cfg: Audit) -> Curve:
    return Curve(survival.kaplan_meier(run.time_ps, run.failed, cfg.confidence), run.length_ps)
