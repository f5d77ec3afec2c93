"""The page of `cgrefine toy`: models against the truth, simulation with and without the prior, refinement."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from cgrefine.artifacts import Stage
from cgrefine.config.toy import Toy
from cgrefine.observables.histogram import density
from cgrefine.report.page import Section, Table, save_plots, write_page
from cgrefine.report.plot import Axis, Band, Histogram, Level, Line, Mark, Plot
from cgrefine.toy.fitting import pmf_of
from cgrefine.toy.models import wall, wall_params
from cgrefine.toy.potentials import EDGE_A, Known, plane
from cgrefine.toy.study import HISTOGRAM, CaseResult, Entry, RefinementResult, Simulated

COLUMNS = (
    "case", "model", "seeds", "parameters", "force error, % of variance", "force RMSE, kcal/mol/Å",
    "PMF RMSE, kcal/mol", "PMF RMSE of the mean", "epoch", "seconds",
)  # fmt: skip

EVERY = 4
"""Points of the grid from one that is drawn to the next."""

OUTSIDE_A = 4.0
"""Beyond the data, that energies are shown."""

X = Axis("x, Å", limits=(-EDGE_A, EDGE_A))


def rows(result: CaseResult) -> list[tuple[object, ...]]:
    """One a model, errors of the worst seed; and the noise floor."""
    found: list[tuple[object, ...]] = []
    for e in result.entries:
        first = e.members[0].fit
        count = int(sum(np.size(leaf) for leaf in _leaves(first.params)))
        found.append(
            (
                result.case.name, e.form, len(e.members), count, 100.0 * e.worst("force_error"),
                e.worst("force_rmse"), e.worst("pmf_rmse"), e.mean.pmf_rmse, first.epoch or "–", e.seconds,
            )
        )  # fmt: skip
    floor = result.floor
    share = 100.0 * floor.force_rmse**2 / float(result.grid.force.var())
    blank = ("–", "–", "–")
    found.append(
        (
            result.case.name,
            "noise floor",
            "–",
            floor.parameters,
            share,
            floor.force_rmse,
            floor.pmf_rmse,
            *blank,
        )
    )
    return found


def _leaves(params: object) -> list[np.ndarray]:
    if isinstance(params, dict):
        return [leaf for value in params.values() for leaf in _leaves(value)]
    if isinstance(params, list):
        return [leaf for value in params for leaf in _leaves(value)]
    return [np.asarray(params)]


def write_report(
    stage: Stage, results: Sequence[CaseResult], refined: RefinementResult | None, cfg: Toy
) -> None:
    """report.html, and its plots as PNG below figures/."""
    table = Table(COLUMNS, [row for result in results for row in rows(result)])
    sections = [Section("Models against the truth", TABLE, table)]
    figures = stage.path / "figures"
    figures.mkdir(exist_ok=True)
    for k, result in enumerate(results):
        plots = [_losses(result), _forces(result), _pmfs(result, cfg.kT_kcal_mol)]
        save_plots(figures / f"case{k + 1}.png", *plots)
        sections.append(Section(result.case.name, _told(result), plots=plots))
        if result.simulated is not None:
            plots = [_histograms(result), _outside(result, result.simulated, cfg), _traces(result, cfg)]
            save_plots(figures / f"case{k + 1}_simulated.png", *plots)
            sections.append(
                Section(f"{result.case.name} in simulation", SIMULATED, _simulations(result), plots)
            )
    if refined is not None:
        plots = [_populations(refined), _refined_pmf(refined)]
        save_plots(figures / "refinement.png", *plots)
        sections.append(Section("Refinement", REFINEMENT, _gradient(refined), plots))
    write_page(stage.path / "report.html", "A particle in a plane", sections)


TABLE = (
    f"Errors from -{EDGE_A:g} to {EDGE_A:g} Å, of the worst seed; PMF errors without their constant. Force "
    "error: mean square error over the variance of the exact mean force. Noise floor: the expected error of "
    "a spline whose size is chosen with knowledge of the truth. Direct is a force without an energy behind "
    "it, its PMF the integral."
)
SIMULATED = (
    "Particles in the learned energy, from points of the data. Jensen-Shannon divergence of the histogram of "
    "x from the exact one, in nats, with the spread over groups of replicas; escaped: share of the particles "
    "that left the domain at any frame. The prior is zero where there are data, so both rows of a seed are "
    "the same network."
)
REFINEMENT = (
    "A network that was fitted to points left of 0 alone, refined against the exact histogram of x. "
    "Populations and energies are those of the learned energy by quadrature. The table has the first "
    "gradient, estimated from simulation and by differentiating the quadrature, projected on the exact one."
)


def _told(result: CaseResult) -> str:
    case, points = result.case, result.points
    how = (
        "drawn uniformly from the square"
        if case.sampling_kT_kcal_mol is None
        else f"from Langevin dynamics at kT = {case.sampling_kT_kcal_mol:g} kcal/mol"
    )
    return (
        f"{len(points.x)} points {how}, a tenth of them held out; with their weights they are worth "
        f"{points.effective:.0f} of equal weight. Forces scatter about their mean by "
        f"{np.sqrt(result.grid.variance.mean()):.3g} kcal/mol/Å."
    )


def _losses(result: CaseResult) -> Plot:
    marks: list[Mark] = []
    for entry in result.entries:
        log = entry.members[0].fit.log
        if log:
            # of three components, two of which are zero
            marks.append(Line([e.epoch for e in log], [3.0 * e.validation.model for e in log], entry.form))
    return Plot(
        f"{result.case.name}: square error of the force on held-out points",
        Axis("epoch", whole=True),
        Axis("(kcal/mol/Å)²", log=True),
        marks,
    )


def _drawn(entry: Entry) -> np.ndarray:
    return np.mean([m.force for m in entry.members], axis=0)


def _forces(result: CaseResult) -> Plot:
    at = result.grid
    x = at.x[::EVERY]
    marks: list[Mark] = []
    for entry in result.entries:
        force = _drawn(entry)[::EVERY]
        if len(entry.members) > 1:
            wide = entry.spread[::EVERY]
            marks.append(
                Band(x, force - wide, force + wide, colour=len([m for m in marks if isinstance(m, Line)]))
            )
        marks.append(Line(x, force, entry.form))
    marks.append(Line(x, at.force[::EVERY], "exact", dashed=True))
    return Plot(f"{result.case.name}: mean force along x", X, Axis("kcal/mol/Å"), marks)


def _pmfs(result: CaseResult, kT: float) -> Plot:
    at = result.grid
    x = at.x[::EVERY]
    marks: list[Mark] = [Line(x, pmf_of(at.x, _drawn(e))[::EVERY], e.form) for e in result.entries]
    marks.append(Line(x, at.pmf[::EVERY], "exact", dashed=True))
    if result.confined:
        p = density(result.confined[0].histogram, HISTOGRAM)
        seen = p > 0.0
        pmf = np.where(seen, -kT * np.log(np.where(seen, p, 1.0)), np.nan)
        exact = np.interp(HISTOGRAM.centres, at.x, at.pmf)
        # constants by the populated bins
        pmf += np.sum((exact - pmf)[seen] * p[seen]) / p[seen].sum()
        marks.append(Line(HISTOGRAM.centres, pmf, "simulation", line=False, points=True))
    return Plot(f"{result.case.name}: potential of mean force", X, Axis("kcal/mol"), marks)


def _simulations(result: CaseResult) -> Table:
    lines = [
        (kind, run.seed, f"{run.divergence:.4f} ± {run.stderr:.4f}", 100.0 * run.escaped)
        for kind, runs in (("with prior", result.confined), ("without", result.free))
        for run in runs
    ]
    return Table(("simulation", "seed", "divergence, nats", "escaped, %"), lines)


def _histograms(result: CaseResult) -> Plot:
    def outline(histogram: np.ndarray, name: str) -> Histogram:
        return Histogram(HISTOGRAM.edges, density(histogram, HISTOGRAM), name)

    marks = [
        outline(result.exact, "exact"),
        outline(result.confined[0].histogram, "with prior"),
        outline(result.free[0].histogram, "without"),
    ]
    return Plot(
        f"{result.case.name}: distribution of x in simulation", X, Axis("probability density, 1/Å"), marks
    )


def _outside(result: CaseResult, entry: Entry, cfg: Toy) -> Plot:
    """Energy within and beyond the data, constants by their mean within."""
    x = np.linspace(-EDGE_A - OUTSIDE_A, EDGE_A + OUTSIDE_A, 721)
    positions = jnp.asarray(plane(x, np.zeros_like(x)), jnp.float32)
    inside = np.abs(x) <= EDGE_A
    fit = entry.members[0].fit
    free = np.asarray(fit.term.scalar(fit.params, positions), np.float64)
    prior, params = wall(cfg.wall_kcal_mol_A2), wall_params(cfg.wall_kcal_mol_A2)
    confining = np.asarray(prior.scalar(params["wall"], positions))
    exact = result.truth.conditional(x)[0]
    marks: list[Mark] = [
        Line(x, free + confining - free[inside].mean(), "with prior"),
        Line(x, free - free[inside].mean(), "without"),
        Line(x, exact - exact[inside].mean(), "exact", dashed=True),
        Level(-EDGE_A, vertical=True),
        Level(EDGE_A, vertical=True),
    ]
    ends = Axis("kcal/mol", limits=(-10.0, 20.0))
    return Plot(f"{result.case.name}: {entry.form} beyond its data", Axis("x, Å"), ends, marks)


def _traces(result: CaseResult, cfg: Toy) -> Plot:
    def lines(run: Simulated, name: str, colour: int) -> list[Mark]:
        time = np.arange(1, len(run.traces) + 1) * cfg.dynamics.save_every_ps
        return [
            Line(time, trace, name if k == 0 else "", colour=colour) for k, trace in enumerate(run.traces.T)
        ]

    limit = EDGE_A + cfg.dynamics.escape_A
    marks = [*lines(result.free[0], "without", 1), *lines(result.confined[0], "with prior", 0)]
    levels: list[Mark] = [Level(-limit), Level(limit)]
    return Plot(
        f"{result.case.name}: the particles that went furthest, and where the domain ends",
        Axis("time, ps"),
        Axis("x, Å", limits=(-4.0 * EDGE_A, 4.0 * EDGE_A)),
        [*marks, *levels],
    )


def _populations(found: RefinementResult) -> Plot:
    error = np.abs(found.course.right - found.exact_right)
    return Plot(
        f"Error of the population of x ≥ 0, which is {found.exact_right:.3f}",
        Axis("window", whole=True),
        Axis("absolute error", log=True),
        [Line(np.arange(len(error)), error, "refined", points=True)],
    )


def _refined_pmf(found: RefinementResult) -> Plot:
    inside = np.abs(found.truth.x) <= EDGE_A

    def line(one: Known, name: str, dashed: bool = False) -> Line:
        x, energy = one.x[inside][::EVERY], one.energy[inside][::EVERY]
        left = x < 0.0
        return Line(x, energy - energy[left].min(), name, dashed=dashed)

    marks = [
        line(found.before, "fitted to x < 0"),
        line(found.after, "refined"),
        line(found.truth, "exact", dashed=True),
    ]
    return Plot("Energy of x, from its lowest value left of 0", X, Axis("kcal/mol"), marks)


def _gradient(found: RefinementResult) -> Table:
    a = found.agreement
    lines = [
        (name, float(exact), f"{estimate:.4g} ± {stderr:.2g}", float(off))
        for name, exact, estimate, stderr, off in zip(
            a.names, a.exact, a.estimate, a.stderr, a.deviation, strict=True
        )
    ]
    return Table(("derivative along", "exact", "estimated", "apart, standard errors"), lines)
