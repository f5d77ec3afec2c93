"""The audit's comparison with the reference: every pooled observable against its noise floor."""

import numpy as np

from cgrefine.cli.audit_subject import Part, Subject
from cgrefine.cli.audit_verdict import Finding
from cgrefine.cli.console import Console
from cgrefine.cli.observe import frames_discarded, reference_groups
from cgrefine.cli.observe_findings import Comparison, compared_with
from cgrefine.cli.observe_results import metric_key
from cgrefine.config.running import Audit
from cgrefine.report.page import Section, Table
from cgrefine.report.plot import Axis, Bars, Plot

SEEN = 2.0
"""Standard errors that a distance must be above its limit by."""


def observables(subject: Subject, cfg: Audit, console: Console) -> Part:
    """A warning for each observable that is further from the reference than the noise and `Audit` allow."""
    by_name: dict[str, list[tuple[str, Comparison]]] = {}
    domains = subject.domains()
    for domain in console.track(domains, total=len(domains), label="observables"):
        every = [subject.frames(o) for o in subject.found if o.domain == domain.name]
        first = frames_discarded(max(map(len, every)), subject.observables.discard_fraction)
        model = [x[first:] for x in every if len(x) > first]
        if not model:
            continue
        reference = reference_groups(domain, subject.sim.temperature_K)[1]
        for c in compared_with(domain, reference, {"": model}, subject.observables)[""]:
            if c.pooled:
                by_name.setdefault(c.observable.name, []).append((domain.name, c))
    findings = [observable_finding(name, [c for _, c in found], cfg) for name, found in by_name.items()]
    rows, entries = [], {}
    for name, found in by_name.items():
        entries[name] = {}
        for domain, c in found:
            d = c.divergence
            rows.append((name, domain, d.value, d.stderr, d.floor, c.unit_of_divergence))
            entries[name][domain] = {**d._asdict(), "unit": c.unit_of_divergence}
    text = (
        "Jensen-Shannon divergence of histograms, mean absolute difference of contacts, secondary structure "
        "and RMSF, later part of the run. Floor: two halves of the reference runs against each other."
    )
    table = Table(("observable", "domain", "distance", "±", "floor", "unit"), rows)
    return Part(findings, entries, [Section("Observables", text, table, plots=_plots(findings))])


def observable_finding(name: str, found: list[Comparison], cfg: Audit) -> Finding:
    """Mean distance over proteins against the mean of what is allowed: see `Audit`."""
    distances = [c.divergence for c in found]
    value = float(np.mean([d.value for d in distances]))
    errors = np.array([d.stderr for d in distances])
    stderr = float(np.sqrt(np.sum(errors**2)) / len(errors))
    histogram = found[0].jensen_shannon is not None
    negligible = cfg.negligible_jensen_shannon if histogram else cfg.negligible_difference
    floors = np.nan_to_num([d.floor for d in distances])
    limit = float(np.mean(np.maximum(negligible, cfg.max_floor_ratio * floors)))
    far = value - SEEN * (stderr if np.isfinite(stderr) else 0.0) > limit
    floor = float(np.mean([d.floor for d in distances]))
    told = f"noise floor {floor:.3g}" if np.isfinite(floor) else "no noise floor: the reference is of one run"
    says = f"{'further from the reference than allowed' if far else 'as near as is asked'}; {told}"
    return Finding(
        f"observable_{metric_key(name).replace(' ', '_')}", value, stderr if np.isfinite(stderr) else None,
        limit, found[0].unit_of_divergence, None, says, warning=far,
    )  # fmt: skip


def _plots(findings: list[Finding]) -> list[Plot]:
    """Distances beside what is allowed, of histograms."""
    shown = [f for f in findings if f.unit == "nats"]
    if not shown:
        return []
    names = [f.name.removeprefix("observable_") for f in shown]
    found = Bars([f.value for f in shown], "found", [f.stderr or 0.0 for f in shown])
    allowed = Bars([f.limit for f in shown], "allowed")
    return [
        Plot(
            "Distance from the reference, mean over proteins", Axis("observable", names=names),
            Axis("Jensen-Shannon divergence, nats"), [found, allowed],
        )
    ]  # fmt: skip
