"""`cgrefine audit`: how stable the simulations were, with intervals, and whether the energy is sound.

audit.json, of one force field (lengths in Å, energies in kcal/mol or kT where the name says so):
    format, verdict                 the format's number; the verdict in words
    passed                          whether every check passed
    decision                        stable, unstable or not decided: see `survival.decision`
    replicas                        rows of replicas.csv; `failure` of those that failed: beads, place (their
                                    residues), value, limit, step, in words, and the snapshot
    stable_fraction                 value, interval (Clopper-Pearson), confidence
    hazard_per_ns                   value, low, high (Garwood)
    median_survival_ps              value, lower_bound
    survival                        Kaplan-Meier: times_ps, surviving, low, high, at_risk, failures
    criteria                        by status: failures, survival (the others censored), incidence, hazard
    thresholds                      criteria as given, as the reference has them, as used
    temperature_K                   kinetic: value, stderr
    checks                          by name: value, stderr, limit, unit, passed (null: a statement), says,
                                    warning (a statement that asks to be looked at)
    constant_energy, scaling, timesteps, temperatures, configurational, holes, mirror, unusual, observables
                                    numbers of each check that was made (`conservation` is constant_energy)
    ensemble                        disagreement of the members of an ensemble; empty without members
With several force fields: format, models (by name, each as above) and comparison.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cgrefine.artifacts import Record, Stage, read_json, write_json
from cgrefine.cli.audit_energy import configurational, conservation, mirror, scaling
from cgrefine.cli.audit_ensemble import disagreement
from cgrefine.cli.audit_holes import holes
from cgrefine.cli.audit_observables import observables
from cgrefine.cli.audit_plots import survival_plots
from cgrefine.cli.audit_scans import temperatures, timesteps
from cgrefine.cli.audit_subject import Part, Subject
from cgrefine.cli.audit_unusual import unusual
from cgrefine.cli.audit_verdict import (
    Finding,
    Verdict,
    decided,
    judged,
    survival_finding,
    temperature_finding,
)
from cgrefine.cli.console import Console
from cgrefine.cli.dynamics import as_judged, bead_steps
from cgrefine.cli.force_field import members_of, simulated, simulated_path
from cgrefine.cli.observe import reference_groups
from cgrefine.cli.replicas import Outcome, read_outcomes
from cgrefine.cli.stages import refuse_exchange
from cgrefine.config.running import Audit
from cgrefine.config.schema import Config
from cgrefine.data.store import Domain, open_dataset
from cgrefine.report.page import Section, Table, save_plots, write_page
from cgrefine.sim.calibration import Reference, Threshold, calibrated
from cgrefine.status import REASONS, Status

FORMAT = 2
REFERENCE_FRAMES = 2000
"""Reference frames of a protein that thresholds are calibrated on."""

CHECKS: dict[str, Callable[[Subject, Audit, Console], Part]] = {
    "conservation": conservation,
    "scaling": scaling,
    "timesteps": timesteps,
    "temperatures": temperatures,
    "configurational": configurational,
    "holes": holes,
    "mirror": mirror,
    "unusual": unusual,
    "observables": observables,
}
ENTRY = {"conservation": "constant_energy"}
"""Where a check stands in audit.json, if not under its own name."""


class Audited(NamedTuple):
    """One force field: verdict, findings in order, its part of audit.json, and sections of its page."""

    verdict: Verdict
    findings: Sequence[Finding]
    content: dict[str, Any]
    sections: Sequence[Section]


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/, train/forcefield and simulate/; write audit.json, figures and report.html."""
    assert config.sim is not None
    refuse_exchange(config, "audit")
    sim, cfg = as_judged(config.sim, root / "simulate"), config.audit
    subject = Subject(
        force_field=simulated(root, sim.temperature_K, console),
        dataset=open_dataset(root / "prepare"),
        sim=sim,
        folder=root / "simulate",
        found=read_outcomes(root / "simulate" / "replicas.csv"),
        duration_ps=read_json(root / "simulate" / "metrics.json")["metrics"]["duration_ps"]["value"],
        members=members_of(simulated_path(root)),
        observables=config.observables,
    )
    domains = subject.domains()
    count = bead_steps(sim, subject.starts(len(subject.found)))
    _, thresholds = calibrated(references(domains, sim.temperature_K), sim.criteria, count)
    found = audited(subject, thresholds, cfg, console)
    record(stage.record, found)
    warn(found.findings, console)
    write_json(stage.path / "audit.json", found.content)
    write_figures(stage.path, {"": found.verdict})
    write_page(stage.path / "report.html", "Stability audit", found.sections)
    console.say(found.verdict.sentence)


def references(domains: Sequence[Domain], temperature_K: float) -> list[Reference]:
    """Reference frames and forces of each domain at the nearest temperature, evenly spread."""
    found = []
    for domain in domains:
        kelvin, _ = reference_groups(domain, temperature_K)
        frames = np.flatnonzero(np.asarray(domain.temperature_K) == kelvin)
        chosen = frames[:: -(-len(frames) // REFERENCE_FRAMES)]
        found.append(
            Reference(
                domain.topology, np.asarray(domain.positions[chosen]), np.asarray(domain.forces[chosen])
            )
        )
    return found


def audited(
    subject: Subject, thresholds: Sequence[Threshold], cfg: Audit, console: Console, loosened: bool = False
) -> Audited:
    """The verdict and every check that the configuration asks for.

    loosened: the replicas were judged by the thresholds `used`, not by those `given`.
    """
    verdict = judged(subject.found, subject.duration_ps, cfg.confidence)
    parts = {name: CHECKS[name](subject, cfg, console) for name in CHECKS if name in cfg.checks}
    parts["ensemble"] = disagreement(subject, cfg, console)
    findings = [
        survival_finding(verdict, cfg),
        temperature_finding(verdict, subject.sim, cfg),
        criteria_finding(thresholds, loosened),
        *(f for part in parts.values() for f in part.findings),
    ]
    passed = all(f.passed is not False for f in findings)
    rows = [{**asdict(o), "failure": failure_entry(subject, o)} for o in subject.found]
    low, high = verdict.interval
    content = {
        "format": FORMAT,
        "verdict": verdict.sentence,
        "passed": passed,
        "decision": decided(verdict, cfg),
        "replicas": rows,
        "stable_fraction": {
            "value": verdict.stable / len(rows), "interval": (low, high), "confidence": cfg.confidence,
        },
        "hazard_per_ns": verdict.hazard_per_ns._asdict(),
        "median_survival_ps": {
            "value": verdict.median.value_ps, "lower_bound": not verdict.median.reached,
        },
        "survival": verdict.survival._asdict(),
        "criteria": {
            name: {
                "failures": c.failures,
                "survival": c.survival._asdict(),
                "incidence": {
                    "times_ps": c.incidence.times_ps, "failed_fraction": 1.0 - c.incidence.surviving,
                },
                "hazard_per_ns": c.hazard_per_ns._asdict(),
            }
            for name, c in verdict.criteria.items()
        },
        "thresholds": [t._asdict() for t in thresholds],
        "temperature_K": verdict.temperature._asdict(),
        "checks": {f.name: {k: v for k, v in f._asdict().items() if k != "name"} for f in findings},
        **{ENTRY.get(name, name): dict(part.content) for name, part in parts.items()},
    }  # fmt: skip
    sections = [
        *_verdict_sections(subject, verdict, findings, passed, cfg.confidence),
        _failure_section(rows),
        _criteria_section(verdict, thresholds),
        *(s for part in parts.values() for s in part.sections),
    ]
    return Audited(verdict, findings, content, sections)


def failure_entry(subject: Subject, outcome: Outcome) -> dict[str, Any] | None:
    """What a replica failed by, where, and its snapshot below the folder that holds the simulation's."""
    if outcome.stable:
        return None
    told = subject.failures[outcome.domain, outcome.replica]
    return {
        "beads": told.beads, "place": "-".join(told.residues), "value": told.value, "limit": told.limit,
        "step": told.step, "says": told.found, "snapshot": f"{subject.folder.name}/failures/{told.pdb}",
    }  # fmt: skip


def criteria_finding(thresholds: Sequence[Threshold], loosened: bool) -> Finding:
    """How many of the criteria in use are close to what the reference and a healthy run do."""
    tight = [t.name for t in thresholds if t.given != t.used]
    if not tight:
        says = "the reference and a healthy run stay within all of them, with the usual margin"
    elif loosened:
        says = f"loosened to what healthy frames do: {', '.join(tight)}"
    else:
        says = f"healthy frames come close to {', '.join(tight)}: failures by it may be none of the model"
    count = 0 if loosened else len(tight)
    return Finding("criteria_tighter_than_reference", float(count), None, None, "", None, says)


def record(into: Record, found: Audited, prefix: str = "") -> None:
    """Metrics and checks of metrics.json; those that are statements are metrics alone."""
    verdict, n = found.verdict, len(found.verdict.failed)
    into.metric(f"{prefix}stable_fraction", verdict.stable / n)
    into.metric(f"{prefix}stable_fraction_low", verdict.interval[0])
    into.metric(f"{prefix}stable_fraction_high", verdict.interval[1])
    into.metric(f"{prefix}replicas", n)
    into.metric(f"{prefix}duration_ps", verdict.duration_ps, unit="ps")
    into.metric(f"{prefix}hazard_per_ns", verdict.hazard_per_ns.value, unit="1/ns")
    into.metric(f"{prefix}median_survival_ps", verdict.median.value_ps, unit="ps")
    into.metric(f"{prefix}median_survival_reached", float(verdict.median.reached))
    kelvin = verdict.temperature
    into.metric(f"{prefix}temperature_K", kelvin.value, unit="K", stderr=kelvin.stderr)
    nve = found.content.get("constant_energy")
    if nve is not None:
        drift = nve["drift_kcal_mol_ns"]
        into.metric(
            f"{prefix}nve_drift_kcal_mol_ns", drift["value"], unit="kcal/mol/ns", stderr=drift["stderr"]
        )
    for f in found.findings:
        if f.passed is None and f.value is not None:
            into.metric(f"{prefix}{f.name}", f.value, unit=f.unit or None, stderr=f.stderr)
        elif f.passed is not None and f.value is not None:
            into.check(f"{prefix}{f.name}", f.passed, f.value, 0.0 if f.limit is None else f.limit)


def warn(findings: Sequence[Finding], console: Console, prefix: str = "") -> None:
    """Say what asks to be looked at."""
    for f in findings:
        if f.warning:
            console.result(f"warning: {prefix}{f.name}: {f.says}")


def write_figures(folder: Path, verdicts: dict[str, Verdict]) -> None:
    """figures/survival.png: the plots of survival on the page."""
    (folder / "figures").mkdir()
    save_plots(folder / "figures" / "survival.png", *survival_plots(verdicts))


def _verdict_sections(
    subject: Subject, verdict: Verdict, findings: Sequence[Finding], passed: bool, confidence: float
) -> list[Section]:
    bound = "" if verdict.median.reached else "at least "
    rate = verdict.hazard_per_ns
    text = (
        f"{'PASSED' if passed else 'FAILED'}. {verdict.sentence}. Median survival {bound}"
        f"{verdict.median.value_ps:g} ps (Kaplan-Meier, replicas alive at the end censored); hazard "
        f"{rate.value:.3g} per ns (exact Poisson interval {rate.low:.3g} to {rate.high:.3g}). Nothing is "
        f"said of longer times than {subject.duration_ps:g} ps. Bands are pointwise intervals of "
        f"{100 * confidence:g} %, the bar at the end the exact one."
    )
    word = {True: "passed", False: "FAILED", None: "statement"}
    rows = [
        (
            f.name, "warning" if f.warning else word[f.passed],
            *("–" if v is None else float(v) for v in (f.value, f.stderr, f.limit)), f.unit, f.says,
        )
        for f in findings
    ]  # fmt: skip
    columns = ("check", "outcome", "value", "standard error", "limit", "unit", "in words")
    return [
        Section("Verdict", text, plots=survival_plots({"": verdict})),
        Section("Checks", "", Table(columns, rows)),
    ]


def _failure_section(rows: Sequence[dict[str, Any]]) -> Section:
    failures = [
        (
            r["domain"], r["replica"], r["failed_at_ps"], r["reason"],
            r["failure"]["place"] or "whole molecule", r["failure"]["says"], r["failure"]["snapshot"],
        )
        for r in rows
        if r["failure"] is not None
    ]  # fmt: skip
    heading = "First failure of each replica"
    if not failures:
        return Section(heading, "No replica failed.")
    text = "Snapshots: up to five saved frames before the failure, then the state that failed."
    columns = ("domain", "replica", "failed at, ps", "reason", "where", "found", "snapshot")
    return Section(heading, text, Table(columns, failures))


def _criteria_section(verdict: Verdict, thresholds: Sequence[Threshold]) -> Section:
    told = "; ".join(
        f"{REASONS[Status[name]]}: {c.failures} ({c.hazard_per_ns.value:.3g} per ns, "
        f"{c.hazard_per_ns.low:.3g} to {c.hazard_per_ns.high:.3g})"
        for name, c in verdict.criteria.items()
    )
    rows = [(t.name, t.given, t.data, t.used, "yes" if t.given != t.used else "no") for t in thresholds]
    columns = ("criterion", "as given", "by the data", "looser of both", "data come close")
    text = f"Failures by criterion, with hazards, the other criteria censored. {told or 'None'}."
    return Section("Criteria", text, Table(columns, rows))
