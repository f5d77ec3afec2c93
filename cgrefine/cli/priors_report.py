"""The page of the stage `priors`: the gate, the fit with its error bars, and what the priors do alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cgrefine import units
from cgrefine.artifacts import Record
from cgrefine.cli import priors_figures
from cgrefine.cli.priors_run import PriorRun
from cgrefine.data.store import Domain
from cgrefine.fm.priors import diagnostics
from cgrefine.fm.priors.classes import labels
from cgrefine.fm.priors.fit import FittedPriors
from cgrefine.fm.priors.gate import Check
from cgrefine.fm.priors.refit import Refitted
from cgrefine.report.page import Section, Table
from cgrefine.status import REASONS, Status


def sections(
    record: Record,
    fitted: FittedPriors,
    refitted: Refitted | None,
    run: PriorRun,
    checks: Mapping[str, Check],
    domains: tuple[Domain, ...],
) -> list[Section]:
    """All sections of the page, the verdict first."""
    return [
        _gate(checks),
        _results(record),
        _fit(fitted, run),
        _bonds(fitted),
        *([] if refitted is None else [_refit(refitted)]),
        _sizes(fitted),
        _alone(fitted, run, domains),
    ]


def _gate(checks: Mapping[str, Check]) -> Section:
    failed = [name for name, check in checks.items() if not check.passed]
    text = (
        "The priors pass their gate: a network may be trained on top of them."
        if not failed
        else f"The priors FAIL their gate: {', '.join(failed)}. `train` refuses them unless --allow-ungated."
    )
    if "helix_mirror_gap_kT" not in checks:
        text += " The data have too few helices for the handedness of an ideal one to be judged."
    rows = [
        (
            name,
            check.meaning,
            check.value,
            f"{'at least' if check.least else 'at most'} {check.limit:g}",
            "passed" if check.passed else "FAILED",
        )
        for name, check in checks.items()
    ]
    return Section("Gate", text, Table(("check", "what", "found", "limit", "verdict"), rows))


def _results(record: Record) -> Section:
    rows = [
        (name, m["value"], m.get("stderr", ""), m.get("unit", ""))
        if isinstance(m, dict)
        else (name, m, "", "")
        for name, m in record.metrics.items()
    ]
    return Section("Results", table=Table(("metric", "value", "± standard error", "unit"), rows))


def _fit(fitted: FittedPriors, run: PriorRun) -> Section:
    kT, found = units.thermal_energy(fitted.temperature_K), fitted.diagnostics
    low, high = found["angle_range_deg"]
    rows: list[tuple[Any, ...]] = [
        (term, label, a["n"], a["kl"], a["kl_noise"])
        for term, classes in found["agreement"].items()
        for label, a in classes.items()
    ]
    text = (
        f"Inverted at {fitted.temperature_K:g} K from {found['frames']} training frames, with the Jacobians "
        f"r² and sin θ, then corrected in {found['rounds']} rounds of simulation of the priors alone "
        f"(iterative Boltzmann inversion). Angles are fitted from {low:.1f} to {high:.1f}°, with quadratic "
        "walls beyond. KL: of the counted from the implied distribution of each row alone, nats (after a "
        "correction it is no longer meant to be small); beside it the share to be expected from as many "
        "independent observations. A class with little data is drawn to the coarser one it is part of. Bands "
        "are standard errors from a bootstrap of runs."
    )
    bands = fitted.bands or {}
    plots = [
        plot
        for name in diagnostics.bonded_terms(fitted.facts)
        for plot in priors_figures.term(
            name, fitted.facts, fitted.params, fitted.marginals, run.counts, kT, bands.get(name)
        )
    ]
    columns = ("term", "class", "observations", "KL", "noise")
    return Section("Fit", text, Table(columns, rows), plots=plots, columns=2)


def _bonds(fitted: FittedPriors) -> Section:
    term = diagnostics.bonded_terms(fitted.facts)["bond"]
    params, errors = fitted.params["bond"], fitted.errors
    observed = fitted.diagnostics["agreement"]["bond"]
    rows = []
    for row, label in enumerate(labels("bond", diagnostics.scheme_of(term))):
        if label in observed:
            spread = ("", "") if errors is None else tuple(float(errors["bond"][n][row]) for n in ("k", "x0"))
            rows.append((label, float(params["k"][row]), spread[0], float(params["x0"][row]), spread[1]))
    columns = ("class", "k (½k form), kcal/mol/Å²", "±", "r0, Å", "±")
    return Section("Bonds", table=Table(columns, rows))


def _refit(refitted: Refitted) -> Section:
    before, after = refitted.force_mse
    text = (
        f"LBFGS on {refitted.frames} frames ended after {len(refitted.log)} iterations ({refitted.reason}). "
        f"The mean squared force error went from {before:.4g} to {after:.4g} (kcal/mol/Å)²."
    )
    return Section("Force-matched refit", text)


def _sizes(fitted: FittedPriors) -> Section:
    plot = priors_figures.sizes(np.asarray(fitted.params["repulsion"]["sigma"]))
    return Section("Size of pairs", "σ of the repulsion.", plots=[plot])


def _alone(fitted: FittedPriors, run: PriorRun, domains: tuple[Domain, ...]) -> Section:
    reasons = [REASONS[Status(s)] for s in run.status]
    rows = [(reason, reasons.count(reason)) for reason in dict.fromkeys(reasons)]
    names = ", ".join(domain.name for domain in domains)
    text = (
        f"{len(run.status)} replicas of {names}, {run.steps} steps ({run.duration_ps:g} ps) each at "
        f"{fitted.temperature_K:g} K, started from training frames; marginals are counted after the first "
        "fifth. They are the green lines above."
    )
    return Section("Priors alone", text, Table(("end of replica", "count"), rows))
