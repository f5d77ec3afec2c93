"""`cgrefine toy`: the whole method on a particle in a plane, whose mean force is known.

Below OUT/toy/: table.csv (every model against the truth), curves.npz (forces on a grid, histograms, the
refinement), figures/, report.html. What must hold is in the checks of metrics.json.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from cgrefine import units
from cgrefine.artifacts import Record, Stage
from cgrefine.boltzmann.refine import Info
from cgrefine.cli.console import Console
from cgrefine.cli.toy_report import COLUMNS, rows, write_report
from cgrefine.config.schema import Config
from cgrefine.config.toy import ToyCase
from cgrefine.errors import InputError
from cgrefine.toy.samples import CROWD, HELD_OUT
from cgrefine.toy.study import CaseResult, RefinementResult, refinement_of, studied

FORMAT = 1

PMF_LIMIT = {"uncoupled": 0.01, "coupled": 0.05}
"""kT: largest PMF error of the model that is simulated."""

FORCE_LIMIT = 0.02
"""Of the variance of the mean force, where forces have no noise."""

FLOOR_LIMIT = 1.3
"""Force error over the noise floor, where they have."""

DIVERGENCE_LIMIT = 0.01
"""Nats, of the simulated histogram from the exact one."""

GAIN_LIMIT = 10.0
"""By which the error of the missing well's population must fall."""

DEVIATION_LIMIT = 3.0
"""Standard errors of the estimated gradient from the exact one."""


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Fit and simulate every case, refine, and write what came of it. Reads no other stage.

    Raises InputError on too few points for a batch, and when sampling dynamics give too few.
    """
    cfg = config.toy
    assert cfg is not None
    _check_batches(cfg.cases, cfg.train.batch_beads)
    results = []
    for case in cfg.cases:
        try:
            results.append(studied(case, cfg, console.say))
        except ValueError as error:
            raise InputError(f"toy.cases {case.name!r}: {error}") from error
    refined = None
    if cfg.refinement is not None:
        chosen = next(r for r in results if r.case.name == cfg.refinement.case)
        refined = refinement_of(chosen, cfg.refinement, cfg, lambda info: console.say(_told(info)))
    for result in results:
        _record(stage.record, result, cfg.kT_kcal_mol)
    free = [run.escaped for result in results for run in result.free]
    if free:
        stage.record.check("escaped without prior in a case (above)", max(free) > 0.0, max(free), 0.0)
    if refined is not None:
        _record_refinement(stage.record, refined)
    table = [row for result in results for row in rows(result)]
    with (stage.path / "table.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([COLUMNS, *table])
    np.savez(stage.path / "curves.npz", **_curves(results, refined))
    write_report(stage, results, refined, cfg)
    console.table("models against the truth", COLUMNS, table)
    checks = [
        (k, c["value"], c["limit"], "yes" if c["passed"] else "NO") for k, c in stage.record.checks.items()
    ]
    console.table("what must hold", ("check", "found", "limit", "held"), checks)


def _check_batches(cases: list[ToyCase], batch_beads: int) -> None:
    if batch_beads < CROWD:
        raise InputError(f"toy.train.batch_beads = {batch_beads}: must be at least {CROWD}, one stored frame")
    for case in cases:
        left = 0.5 * HELD_OUT * case.points
        if left < 2 * CROWD:
            raise InputError(
                f"toy.cases {case.name!r}: of {case.points} points too few are held out; must be at least "
                f"{round(4 * CROWD / HELD_OUT)}"
            )


def _told(info: Info) -> str:
    last = f", loss {info.updates[-1].losses['particle']['x']:.3g}" if info.updates else ""
    return f"refinement window {info.window}{last}"


def _record(record: Record, result: CaseResult, kT: float) -> None:
    """Metrics of all models, and checks of the one that is simulated: of its worst seed."""
    name, floor = result.case.name, result.floor
    for entry in result.entries:
        key = f"{name}.{entry.form}"
        record.metric(f"{key}.force_error", entry.worst("force_error"))
        record.metric(f"{key}.force_rmse", entry.worst("force_rmse"), "kcal/mol/Å")
        record.metric(f"{key}.pmf_rmse", entry.worst("pmf_rmse"), "kcal/mol")
        record.metric(f"{key}.seconds", entry.seconds, "s")
    record.metric(f"{name}.effective_points", result.points.effective)
    record.metric(f"{name}.floor.force_rmse", floor.force_rmse, "kcal/mol/Å")
    record.metric(f"{name}.floor.pmf_rmse", floor.pmf_rmse, "kcal/mol")
    best = result.simulated
    if best is None:
        return
    limit = PMF_LIMIT[result.case.potential]
    found = best.worst("pmf_rmse") / kT
    record.check(f"{name}: PMF RMSE, kT", found < limit, found, limit)
    if result.case.potential == "uncoupled":
        found = best.worst("force_error")
        record.check(f"{name}: force error over variance", found < FORCE_LIMIT, found, FORCE_LIMIT)
    else:
        found = best.worst("force_rmse") / floor.force_rmse
        record.check(f"{name}: force error over noise floor", found < FLOOR_LIMIT, found, FLOOR_LIMIT)
    for kind, runs in (("prior", result.confined), ("no_prior", result.free)):
        for run in runs:
            key = f"{name}.{kind}.seed{run.seed}"
            record.metric(f"{key}.divergence", run.divergence, "nats", run.stderr)
            record.metric(f"{key}.escaped", run.escaped)
    found = max(run.divergence for run in result.confined)
    record.check(f"{name}: divergence with prior", found < DIVERGENCE_LIMIT, found, DIVERGENCE_LIMIT)
    found = max(run.escaped for run in result.confined)
    record.check(f"{name}: escaped with prior", found == 0.0, found, 0.0)


def _record_refinement(record: Record, found: RefinementResult) -> None:
    right = found.course.right
    record.metric("refinement.right_exact", found.exact_right)
    record.metric("refinement.right_before", right[0])
    record.metric("refinement.right_after", right[-1])
    agreement = found.agreement
    for name, exact, value, stderr in zip(
        agreement.names, agreement.exact, agreement.estimate, agreement.stderr, strict=True
    ):
        record.metric(f"refinement.gradient.{name}.exact", exact)
        record.metric(f"refinement.gradient.{name}.estimate", value, stderr=stderr)
    gain = found.gain
    record.check("refinement: error of the population falls by (above)", gain > GAIN_LIMIT, gain, GAIN_LIMIT)
    worst = float(np.abs(agreement.deviation).max())
    record.check("refinement: gradient, standard errors", worst < DEVIATION_LIMIT, worst, DEVIATION_LIMIT)


def _curves(results: list[CaseResult], refined: RefinementResult | None) -> dict[str, Any]:
    """Arrays by name; x in Å, forces in kcal/mol/Å, energies in kcal/mol."""
    arrays: dict[str, Any] = {"format": FORMAT, "units": "Å, kcal/mol", "kcal_mol_per_K": units.KB}
    for result in results:
        name = result.case.name
        for key, value in result.grid.__dict__.items():
            arrays[f"{name}/exact/{key}"] = value
        for entry in result.entries:
            for member in entry.members:
                arrays[f"{name}/{entry.form}/seed{member.seed}/force"] = member.force
        if result.simulated is not None:
            arrays[f"{name}/exact/histogram"] = result.exact
        for kind, runs in (("prior", result.confined), ("no_prior", result.free)):
            for run in runs:
                arrays[f"{name}/{kind}/seed{run.seed}/histogram"] = run.histogram
    if refined is not None:
        arrays["refinement/right"] = refined.course.right
        for key, one in (("truth", refined.truth), ("before", refined.before), ("after", refined.after)):
            arrays |= {f"refinement/{key}/{field}": value for field, value in one._asdict().items()}
    return arrays
