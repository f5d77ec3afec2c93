"""The comparison of an ablation as a table and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from cgrefine.cli.ablate_results import (
    TARGET_MARGIN,
    Ablation,
    Reached,
    Summary,
    Variant,
    first_epoch,
)
from cgrefine.cli.ablate_runs import FORCES, STAGES, SURVIVAL, Run
from cgrefine.cli.console import shown
from cgrefine.report.page import Section, Table, save_plots, write_page
from cgrefine.report.plot import Axis, Bars, Level, Line, Mark, Plot

MISSING = "–"
LABELS = {
    "force_rmse_kcal_mol_A": "force RMSE",
    "explained_variance": "explained variance of forces",
    "stable_fraction": "stable fraction, mean over seeds",
    "lived_fraction": "share of the run lived through",
    "contact_map_mae": "contacts, mean |Δ|",
}
KINDS = {"js": "JS", "w1": "W1"}


def label(metric: str, unit: str | None = None) -> str:
    """A metric as the name of a row, unit included."""
    if metric in LABELS:
        text = LABELS[metric]
    else:
        kind, _, observable = metric.partition("_")
        text = f"{observable.replace('_', ' ')}, {KINDS.get(kind, kind)}"
    return f"{text}, {unit}" if unit else text


def with_error(found: Summary | None) -> str:
    """Mean ± standard error; how many seeds were measured when it was not all of them."""
    if found is None or found.mean is None:
        return MISSING
    error = "" if found.stderr is None else f" ± {found.stderr:.2g}"
    some = "" if found.measured == len(found.values) else f" ({found.measured} of {len(found.values)} seeds)"
    return f"{shown(found.mean)}{error}{some}"


def epochs_text(found: Reached) -> str:
    """Mean ± standard error of the epochs; with censored seeds the median, or that it was not reached."""
    if found.mean is not None:
        return with_error(Summary(found.mean, found.stderr, ()))
    within = f"in {found.budget}" if found.budget else "(no training)"
    if found.reached == 0:
        return f"not reached {within}"
    median = f"median {found.median:g}, " if found.median is not None else ""
    return f"{median}{found.reached} of {len(found.epochs)} seeds reached it {within}"


def stable_text(variant: Variant) -> str:
    """Stable replicas of all, with the Wilson interval."""
    low, high = variant.verdict.wilson
    return f"{variant.verdict.stable} of {variant.replicas} [{low:.2f}, {high:.2f}]"


def survival_text(variant: Variant) -> str:
    """Median survival, ps; a lower bound when more than half of the replicas lived."""
    median = variant.verdict.median
    return shown(median.value_ps) if median.reached else f"> {shown(median.value_ps)}"


def rows_of(study: Ablation) -> list[tuple[str, ...]]:
    """One row a quantity, one column a variant."""
    variants = list(study.variants.values())
    names = list(dict.fromkeys(name for v in variants for name in v.metrics))
    observed = [name for name in names if name not in (*FORCES, *SURVIVAL)]

    def metric_rows(chosen: Sequence[str]) -> list[tuple[str, ...]]:
        return [
            (label(name, study.units.get(name)), *(with_error(v.metrics.get(name)) for v in variants))
            for name in chosen
        ]

    return [
        *metric_rows(FORCES),
        (f"epochs to MSE {shown(study.loss_target)}", *(epochs_text(v.reached) for v in variants)),
        ("stable replicas [interval]", *(stable_text(v) for v in variants)),
        *metric_rows(SURVIVAL),
        ("median survival, ps", *(survival_text(v) for v in variants)),
        *metric_rows(observed),
        *((f"{stage}, s", *(with_error(v.seconds[stage]) for v in variants)) for stage in STAGES),
    ]


def write_report(path: Path, study: Ablation, budget: Mapping[str, Any]) -> None:
    """report.html: what was compared, the table, differences, curves, and every run; plots beside it, too."""
    loss, survival, observables = _loss(study), _survival(study), _observables(study)
    for name, plots in (("loss", [loss]), ("survival", [survival]), ("observables", observables)):
        if plots:
            save_plots(path.with_name(f"{name}.png"), *plots)
    columns = ("quantity", *study.variants)
    sections = [
        Section("What was compared", _premise(study, budget), Table(("budget", "value"), _pairs(budget))),
        Section("Result", _reading(study, budget), Table(columns, rows_of(study))),
        Section("Differences", _difference_text(study, budget), _differences(study)),
        Section("Validation loss", _target_text(study), plots=[loss]),
        Section(
            "Survival",
            "Kaplan-Meier over the replicas of all seeds; bars: interval of the stable fraction.",
            plots=[survival],
        ),
        Section("Observables", _observed_text(study), plots=observables),
        Section("Runs", "Seconds are wall time, compilation included.", _run_table(study)),
    ]
    partial = path.with_name(f".{path.name}.partial")
    write_page(partial, "Ablation: priors, network, both", sections)
    partial.rename(path)


def _pairs(budget: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, ", ".join(map(str, v)) if isinstance(v, list) else v) for name, v in budget.items()]


def _premise(study: Ablation, budget: Mapping[str, Any]) -> str:
    return (
        f"{', '.join(study.variants)}: the same frames, priors, epochs, batches and simulations, once for "
        f"each of {len(budget['seeds'])} seeds. The seed is that of the network's start, of the order of the "
        "data and of the simulation. Priors alone are not trained, so that their force errors do not vary."
    )


def _reading(study: Ablation, budget: Mapping[str, Any]) -> str:
    n, percent = len(budget["seeds"]), 100 * study.confidence
    factor = student.ppf(0.5 + 0.5 * study.confidence, n - 1)
    return (
        f"Mean ± standard error over {n} seeds, of which a {percent:g} % interval spans ± {factor:.1f}; the "
        "error that the choice of validation frames causes is common to all variants and stands with each "
        f"run below. The interval of the stable replicas is Wilson's at {percent:g} %, every replica of "
        f"{budget['duration_ps']:g} ps counted as independent. JS: Jensen-Shannon divergence (nats), W1: "
        "earth mover's distance to the reference, means over domains. Observables are those of the frames "
        "before a replica failed: short runs look like their start, so read them with the share of the run "
        f"that was lived through. {MISSING}: no frame to measure."
    )


def _difference_text(study: Ablation, budget: Mapping[str, Any]) -> str:
    return (
        f"Seed by seed over {len(budget['seeds'])} seeds, with Student's {100 * study.confidence:g} % "
        "interval; of the stable fraction over the replicas of all seeds, with Newcombe's. Not corrected "
        f"for the number of rows. {MISSING}: fewer than two seeds could be measured on both sides."
    )


def _differences(study: Ablation) -> Table:
    pairs = list(study.differences)
    names = list(dict.fromkeys(name for found in study.differences.values() for name in found))
    rows = []
    for name in names:
        cells = []
        for pair in pairs:
            d = study.differences[pair].get(name)
            cells.append(MISSING if d is None else f"{shown(d.mean)} [{shown(d.low)}, {shown(d.high)}]")
        rows.append((label(name, study.units.get(name)), *cells))
    return Table(("quantity", *(f"{a} − {b}" for a, b in pairs)), rows)


def _target_text(study: Ablation) -> str:
    source = (
        "as configured"
        if study.target_given
        else f"{TARGET_MARGIN:g} times the best of the median seed of `both`"
    )
    met = [name for name, v in study.variants.items() if name == "priors" and v.reached.reached]
    caution = " Priors alone meet it, so it says little about the training." if met else ""
    return (
        f"One line a seed. Dashed: the target, {shown(study.loss_target)} (kcal/mol/Å)², {source}.{caution}"
    )


def _observed_text(study: Ablation) -> str:
    lost = [f"{run.variant}-{run.seed} ({', '.join(run.unobserved)})" for run in study.runs if run.unobserved]
    floor = "Ticks: two halves of the reference runs, which no model can be expected to beat."
    return floor + (f" Without a frame to measure: {'; '.join(lost)}." if lost else "")


def _loss(study: Ablation) -> Plot:
    marks: list[Mark] = []
    for colour, (name, variant) in enumerate(study.variants.items()):
        for k, run in enumerate(variant.runs):
            text = name if k == 0 else ""
            epochs, losses = zip(*run.curve, strict=True) if run.curve else ((), ())
            if len(losses) == 1:
                marks.append(Level(losses[0], text, colour=colour))
            else:
                marks.append(Line(epochs, losses, text, points=True, colour=colour))
    return Plot(
        "Validation loss, a line a seed",
        Axis("epoch", whole=True),
        Axis("validation force MSE, (kcal/mol/Å)²"),
        [*marks, Level(study.loss_target, "target", colour=len(study.variants))],
    )


def _survival(study: Ablation) -> Plot:
    marks: list[Mark] = []
    for index, (name, variant) in enumerate(study.variants.items()):
        verdict = variant.verdict
        fraction = np.r_[1.0, verdict.survival.surviving]
        times = np.r_[0.0, verdict.survival.times_ps, verdict.duration_ps]
        marks.append(Line(times, np.r_[fraction, fraction[-1]], name, step=True, colour=index))
        # the intervals stand beside each other behind the end
        place, share = verdict.duration_ps * (1.01 + 0.01 * index), verdict.stable / variant.replicas
        low, high = verdict.wilson
        # of none or all the bound is the share itself, but for rounding
        error = ([max(share - low, 0.0)], [max(high - share, 0.0)])
        marks.append(Line([place], [share], error=error, line=False, points=True, colour=index))
    return Plot(
        "Surviving fraction, Kaplan-Meier; bars: interval of the stable fraction",
        Axis("time, ps"),
        Axis("surviving fraction", limits=(-0.02, 1.05)),
        marks,
    )


def _observables(study: Ablation) -> list[Plot]:
    """Bars of the JS divergences of each variant with standard errors, and the floor of the reference."""
    names = list(dict.fromkeys(n for v in study.variants.values() for n in v.metrics if n.startswith("js_")))
    if not names:
        return []
    marks: list[Mark] = []
    for index, (name, variant) in enumerate(study.variants.items()):
        found = [variant.metrics.get(metric) for metric in names]
        mean = [np.nan if s is None or s.mean is None else s.mean for s in found]
        error = [np.nan if s is None or s.stderr is None else s.stderr for s in found]
        marks.append(Bars(mean, name, error, colour=index))
    floors = [study.floors.get(name, np.nan) for name in names]
    floor = Line(
        range(len(names)), floors, "floor of the reference", line=False, points=True,
        colour=len(study.variants),
    )  # fmt: skip
    return [
        Plot(
            "Divergence from the reference, mean over seeds ± standard error",
            Axis("observable", names=[label(name).removesuffix(", JS") for name in names]),
            Axis("JS divergence, nats"),
            [*marks, floor],
        )
    ]


def _run_table(study: Ablation) -> Table:
    columns = (
        "run", "force RMSE, kcal/mol/Å", "± of frames", "explained variance", "± of frames",
        "epochs to target", "stable",
        *(f"{stage}, s" for stage in STAGES), "all, s",
    )  # fmt: skip
    return Table(columns, [_run_row(run, study.loss_target) for run in study.runs])


def _run_row(run: Run, target: float) -> tuple[object, ...]:
    epoch = first_epoch(run.curve, target)
    numbers = [v for name in FORCES for v in (run.metrics[name], run.frames_stderr[name])]
    seconds = [run.seconds.get(stage) for stage in STAGES]
    return (
        f"{run.variant}-{run.seed}",
        *(MISSING if v is None else v for v in numbers),
        "not reached" if epoch is None else epoch,
        f"{sum(o.stable for o in run.outcomes)} of {len(run.outcomes)}",
        *(MISSING if s is None else round(s, 1) for s in seconds),
        round(sum(s for s in seconds if s is not None), 1),
    )
