"""The page of a refinement: survival before and after, the course of learning, distributions, the price."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cgrefine.artifacts import Stage
from cgrefine.cli.audit_plots import survival_plots
from cgrefine.cli.observe_findings import Comparison
from cgrefine.cli.refine_judge import Judged, Observed, distances, observable_names
from cgrefine.cli.refine_log import losses_of, mean_of
from cgrefine.cli.refine_setup import Setup
from cgrefine.observables.histogram import density
from cgrefine.report.page import Section, Table, save_plots, write_page
from cgrefine.report.plot import Axis, Histogram, Line, Mark, Plot

NAMES = {"pre": "start", "post": "refined", "control": "forces alone"}


def write_report(stage: Stage, made: Setup, log: Sequence[Mapping[str, Any]], found: Judged) -> None:
    """report.html, and its plots as PNG below figures/."""
    survival = survival_plots({NAMES[name]: v for name, v in found.verdicts.items()})
    course, front = course_plots(log), front_plot(found)
    figures = stage.path / "figures"
    figures.mkdir(exist_ok=True)
    save_plots(figures / "survival.png", survival[0])
    save_plots(figures / "front.png", front)
    if course:
        save_plots(figures / "course.png", *course)
    sections = [
        Section("Before and after", _told(made, found), _table(found), plots=survival[:1]),
        Section("Force error and stability", FRONT, plots=[front]),
        Section("Course", COURSE, plots=course),
        Section("Observables over the same time", TOGETHER, _observables(found, found.together)),
        Section(
            "Observables",
            OBSERVABLES,
            _observables(found, found.observables),
            plots=distributions(found),
            columns=2,
        ),
        Section("Windows", "", _windows(log)),
    ]
    write_page(stage.path / "report.html", "Refinement", sections)


FRONT = (
    "Error of forces on all validation frames and the fraction of replicas that are alive at the end, with "
    "exact intervals: what was paid for what. Up and to the left is better."
)
COURSE = (
    "Of each window: the fraction of its replicas that failed, and the force error on held-out frames after "
    "it; of each update the mean over a window. Kish: effective share of the frames after reweighting. "
    "Signal: cosine between gradients of half the replicas each. Agreement: cosine between the gradient of "
    "the losses and that of the force error."
)
OBSERVABLES = (
    "As above, of all frames before any failure. A model that fails early is judged near its starts here, "
    "one that lives where it has come to."
)
TOGETHER = (
    "Distances from the validation frames, over the time in which the same replica of every model is alive: "
    "Jensen-Shannon divergence of histograms in nats, mean absolute difference of the others. Floor: halves "
    "of the reference against each other."
)


def _told(made: Setup, found: Judged) -> str:
    first = next(iter(found.verdicts.values()))
    return (
        f"{len(first.failed)} replicas of each model over {first.duration_ps:g} ps, from validation frames "
        "that the refinement did not start from, the same for all and with the same noise, by the criteria "
        f"and integrator of the refinement ({made.sim.step_fs:g} fs). A replica counts until it first fails. "
        "“Forces alone” is the control: as many updates as the refinement made, by force matching only."
    )


def _table(found: Judged) -> Table:
    rows = []
    tests = found.content["comparison"]["against_first"]
    errors = {c.name: c for c in found.forces.contenders}
    start = errors["pre"].errors.mse.value
    for name, v in found.verdicts.items():
        mse = errors[name].errors.mse
        bound = "" if v.median.reached else "≥ "
        low, high = v.interval
        p = "–" if name not in tests else f"{tests[name]['log_rank']['p']:.2g}"
        growth = "–" if name == "pre" else f"{mse.value / start - 1.0:+.1%}"
        rows.append(
            (
                NAMES[name], f"{v.stable} of {len(v.failed)}", f"{low:.2f} to {high:.2f}",
                f"{bound}{v.median.value_ps:g}", v.hazard_per_ns.value, p,
                f"{mse.value:.5g} ± {mse.stderr:.2g}", growth,
            )
        )  # fmt: skip
    columns = (
        "model", "alive at the end", "95 % interval", "median survival, ps", "hazard, 1/ns",
        "log-rank p against the start", "force MSE, (kcal/mol/Å)²", "change",
    )  # fmt: skip
    return Table(columns, rows)


def front_plot(found: Judged) -> Plot:
    """Force error against stability, a point each."""
    marks: list[Mark] = []
    errors = {c.name: c.errors.mse.value for c in found.forces.contenders}
    for name, v in found.verdicts.items():
        stable = v.stable / len(v.failed)
        bars = ([max(stable - v.interval[0], 0.0)], [max(v.interval[1] - stable, 0.0)])
        marks.append(Line([errors[name]], [stable], NAMES[name], error=bars, line=False, points=True))
    return Plot(
        "Force error and stability",
        Axis("force MSE, (kcal/mol/Å)²"),
        Axis("fraction alive at the end", limits=(-0.02, 1.05)),
        marks,
    )


def course_plots(log: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Failed fraction and force error by window; diagnostics and losses of windows with updates."""
    if not log:
        return []
    x = [entry["window"] for entry in log]
    windows = Axis("window", whole=True)
    learning = [entry["phase"] == "learn" for entry in log]
    failed = np.array([entry["failed"] for entry in log])
    plots = [
        Plot(
            "Failed fraction of each window",
            windows,
            Axis("failed fraction", limits=(-0.02, 1.05)),
            [
                Line(x, np.where(learning, np.nan, failed), "exploring", line=False, points=True),
                Line(x, np.where(learning, failed, np.nan), "learning", points=True),
            ],
        ),
        Plot(
            "Force error on held-out frames",
            windows,
            Axis("force MSE, (kcal/mol/Å)²"),
            [Line(x, [entry["force_mse"] for entry in log], points=True)],
        ),
    ]
    taught = [entry for entry in log if entry["updates"]]
    if not taught:
        return plots
    at = [entry["window"] for entry in taught]
    numbers = {"Kish": "kish", "signal": "signal", "agreement": "agreement", "step taken": "step"}
    marks = [
        Line(at, [mean_of(e, key) for e in taught], label, points=True) for label, key in numbers.items()
    ]
    plots.append(Plot("Updates, mean over a window", windows, Axis("no unit"), marks))
    losses = [losses_of(entry) for entry in taught]
    names = list(dict.fromkeys(name for found in losses for name in found))
    if names:
        lines = [Line(at, [found.get(n, np.nan) for found in losses], n, points=True) for n in names]
        caption = "Losses, over their noise floors where they have one"
        plots.append(Plot(caption, windows, Axis("loss", log=_positive(losses)), lines))
    return plots


def _positive(losses: Sequence[Mapping[str, float]]) -> bool:
    return all(value > 0.0 for found in losses for value in found.values())


def _observables(found: Judged, observed: Observed) -> Table:
    rows = []
    for name in observable_names(found):
        cells: list[object] = [name, "held out" if name in found.held_out else ""]
        for of_domains in observed.values():
            value, error, _ = distances(of_domains, name)
            cells.append("–" if np.isnan(value) else f"{value:.3g} ± {error:.1g}")
        floors = [distances(of_domains, name)[2] for of_domains in observed.values()]
        rows.append((*cells, float(np.nanmax(floors)) if not np.all(np.isnan(floors)) else "–"))
    return Table(("observable", "", *(NAMES[name] for name in observed), "floor"), rows)


def distributions(found: Judged, most: int = 8) -> list[Plot]:
    """Histograms of the first protein: reference and every model."""
    by_model = {name: cs for name, cs in found.observables.items() if cs}
    if not by_model:
        return []
    domain = next(iter(next(iter(by_model.values()))))
    plots = []
    for name in observable_names(found):
        curves: dict[str, Comparison] = {
            NAMES[m]: c
            for m, of_domains in by_model.items()
            for c in of_domains.get(domain, [])
            if c.observable.name == name and c.observable.grid is not None
        }
        if not curves or len(plots) == most:
            continue
        first = next(iter(curves.values()))
        grid = first.observable.grid
        assert grid is not None
        marks: list[Mark] = [Histogram(grid.edges, density(first.reference.mean, grid), "reference")]
        marks += [Histogram(grid.edges, density(c.model.mean, grid), m) for m, c in curves.items()]
        unit = f", {first.observable.unit}" if first.observable.unit else ""
        plots.append(Plot(f"{domain}: {name}", Axis(f"{name}{unit}"), Axis("probability density"), marks))
    return plots


def _windows(log: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for e in log:
        place = f"cycle {e['cycle']}, epoch {e['epoch']}" if e["phase"] == "learn" else "exploring"
        reasons = ", ".join(f"{name} {count}" for name, count in e["statuses"].items()) or "none"
        rows.append(
            (
                e["window"], place, f"{e['failed']:.1%}", reasons, len(e["updates"]), mean_of(e, "step"),
                mean_of(e, "n_eff"), e["force_mse"], e["multiplier"], e["rejected"] or "–",
            )
        )  # fmt: skip
    columns = (
        "window", "phase", "failed", "failures", "updates", "step taken", "independent frames",
        "force MSE, (kcal/mol/Å)²", "multiplier of the constraint", "taken back",
    )  # fmt: skip
    return Table(columns, rows)
