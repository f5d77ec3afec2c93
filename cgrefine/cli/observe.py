"""`cgrefine observe`: distributions of the simulated replicas against the reference, with plots."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cgrefine.artifacts import Stage, write_json
from cgrefine.checkpoint import save_params
from cgrefine.cli.console import Console
from cgrefine.config.schema import Config
from cgrefine.data.store import Domain, open_dataset
from cgrefine.errors import InputError
from cgrefine.observables import compare
from cgrefine.observables.catalogue import standard
from cgrefine.observables.histogram import density
from cgrefine.observables.pairs import separated_pairs
from cgrefine.observables.statistics import Estimate, estimate
from cgrefine.observables.structure import Observable
from cgrefine.report.page import Section, Table, figure, save_figure, write_page
from cgrefine.sim.trajectory import read_frames

COLUMNS = ("observable", "unit", "mean, reference", "mean, model", "JS (nats)", "JS floor", "W1 or mean |Δ|")


@dataclass(frozen=True)
class Comparison:
    """One observable of one domain: estimates of reference and model, and their distances."""

    observable: Observable
    reference: Estimate
    model: Estimate
    jensen_shannon: float | None
    floor: float | None
    distance: float

    def row(self) -> tuple[object, ...]:
        """A row of the report's table."""
        grid = self.observable.grid
        if grid is None:
            means = [float(e.mean.mean()) for e in (self.reference, self.model)]
        else:
            means = [compare.histogram_mean(e.mean, grid) for e in (self.reference, self.model)]
        shown = ["–" if v is None else v for v in (self.jensen_shannon, self.floor)]
        return (self.observable.name, self.observable.unit, *means, *shown, self.distance)


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/ and simulate/; write observables.json, figures, arrays and report.html."""
    assert config.sim is not None
    dataset = open_dataset(root / "prepare")
    names = sorted({_domain_of(p) for p in (root / "simulate" / "trajectories").iterdir()})
    (stage.path / "figures").mkdir()
    sections, summary, compared = [], {}, {}
    for name in console.track(names, total=len(names), label="observables"):
        domain = dataset.domain(name)
        temperature, reference = reference_groups(domain, config.sim.temperature_K)
        model = model_groups(root / "simulate", name, config.observables.discard_fraction)
        found = [_compare(o, reference, model) for o in standard(domain.topology, config.observables)]
        fig = _figure(domain, found, config.observables.contact_min_separation)
        save_figure(stage.path / "figures" / f"{name}.png", fig)
        text = f"{len(reference)} reference runs at {temperature:g} K, {len(model)} model replicas."
        sections.append(Section(name, text, Table(COLUMNS, [c.row() for c in found]), [figure(fig)]))
        summary[name] = {"reference_temperature_K": temperature, "observables": _numbers(found)}
        compared[name] = found
        save_params(stage.path / f"{name}.npz", _arrays(found))
    _record(stage, compared)
    write_json(stage.path / "observables.json", summary)
    write_page(stage.path / "report.html", "Observables against the reference", [_legend(), *sections])


def reference_groups(domain: Domain, temperature_K: float) -> tuple[float, list[np.ndarray]]:
    """The temperature in the data nearest to the wanted one, and its frames (f, n, 3) run by run."""
    known = np.unique(np.asarray(domain.temperature_K))
    nearest = known[np.argmin(np.abs(known - temperature_K))]
    at_temperature = np.asarray(domain.temperature_K) == nearest
    replicas = np.asarray(domain.replica)
    return float(nearest), [
        np.asarray(domain.positions[at_temperature & (replicas == r)])
        for r in np.unique(replicas[at_temperature])
    ]


def model_groups(folder: Path, name: str, discard_fraction: float) -> list[np.ndarray]:
    """Frames of each replica of a domain after the discarded share; replicas without any are left out.

    Raises InputError when no frame is left at all.
    """
    pdb = folder / "topology" / f"{name}.pdb"
    files = [p for p in sorted((folder / "trajectories").iterdir()) if _domain_of(p) == name]
    groups = [read_frames(path, pdb) for path in files]
    longest = max(len(g) for g in groups)
    kept = [g[frames_discarded(longest, discard_fraction) :] for g in groups]
    if not any(len(g) for g in kept):
        raise InputError(
            f"{folder / 'trajectories'}: no frame of {name} is left after discarding the first "
            f"{discard_fraction:g} of each trajectory (observables.discard_fraction)"
        )
    return [g for g in kept if len(g)]


def frames_discarded(longest: int, discard_fraction: float) -> int:
    """Frames left out at the start of each trajectory of a domain whose longest one has so many."""
    return int(np.ceil(discard_fraction * longest))


def metric_key(observable: str) -> str:
    """Name of an observable in the names of metrics: P(r) is pair_distance."""
    return observable.replace("P(r)", "pair_distance").replace("-", "_").lower()


def _domain_of(path: Path) -> str:
    return path.stem.rpartition("_r")[0]


def _compare(observable: Observable, reference: list[np.ndarray], model: list[np.ndarray]) -> Comparison:
    target, found = estimate(observable, reference), estimate(observable, model)
    grid = observable.grid
    if grid is None:
        gap = compare.mean_absolute_difference(target.mean, found.mean)
        return Comparison(observable, target, found, None, None, gap)
    floor = None
    if len(target.groups) > 1:
        halves = target.groups[::2].mean(0), target.groups[1::2].mean(0)
        floor = compare.jensen_shannon(*halves)
    return Comparison(
        observable,
        target,
        found,
        compare.jensen_shannon(target.mean, found.mean),
        floor,
        compare.wasserstein(target.mean, found.mean, grid),
    )


def _record(stage: Stage, compared: dict[str, list[Comparison]]) -> None:
    """One metric an observable: the mean over domains."""
    by_name: dict[str, list[Comparison]] = {}
    for found in compared.values():
        for c in found:
            by_name.setdefault(c.observable.name, []).append(c)
    for name, found in by_name.items():
        key = metric_key(name)
        distance = float(np.mean([c.distance for c in found]))
        divergences = [c.jensen_shannon for c in found if c.jensen_shannon is not None]
        if divergences:
            stage.record.metric(f"js_{key}", float(np.mean(divergences)), unit="nats")
            stage.record.metric(f"w1_{key}", distance, unit=found[0].observable.unit)
        else:
            stage.record.metric("contact_map_mae", distance)


def _numbers(found: list[Comparison]) -> dict[str, dict[str, object]]:
    keys = ("unit", "reference_mean", "model_mean", "jensen_shannon", "jensen_shannon_floor", "distance")
    rows = [c.row() for c in found]
    return {str(r[0]): dict(zip(keys, [None if v == "–" else v for v in r[1:]], strict=True)) for r in rows}


def _arrays(found: list[Comparison]) -> dict[str, dict[str, np.ndarray]]:
    """Observable → mean and stderr of both sides, and the edges of its bins."""
    arrays = {}
    for c in found:
        entry = {"reference": c.reference.mean, "reference_stderr": c.reference.stderr}
        entry |= {"model": c.model.mean, "model_stderr": c.model.stderr}
        if c.observable.grid is not None:
            entry["edges"] = c.observable.grid.edges
        arrays[c.observable.name] = entry
    return arrays


def _figure(domain: Domain, found: list[Comparison], contact_separation: int) -> Figure:
    pairs = separated_pairs(domain.topology, contact_separation)
    columns = 4
    rows = -(-len(found) // columns)
    fig = Figure(figsize=(3.2 * columns, 2.6 * rows), layout="constrained")
    for index, c in enumerate(found):
        ax = fig.add_subplot(rows, columns, index + 1)
        if c.observable.grid is None:
            _draw_contacts(ax, pairs, domain.topology.n_beads, c)
        else:
            _draw_density(ax, c)
        ax.set_title(c.observable.name, fontsize=10)
    fig.suptitle(f"{domain.name}: reference and model")
    return fig


def _draw_density(ax: Axes, c: Comparison) -> None:
    grid = c.observable.grid
    assert grid is not None
    for label, value in (("reference", c.reference), ("model", c.model)):
        p, error = density(value.mean, grid), density(value.stderr, grid)
        ax.plot(grid.centres, p, label=label, linewidth=1.2)
        ax.fill_between(grid.centres, p - error, p + error, alpha=0.25)
    used = np.flatnonzero((c.reference.mean + c.model.mean)[1:-1] > 1e-4)
    if len(used):
        ax.set_xlim(float(grid.edges[used[0]]), float(grid.edges[used[-1] + 1]))
    ax.set_xlabel(c.observable.unit)
    ax.set_yticks([])
    ax.legend(fontsize=7)


def _draw_contacts(ax: Axes, pairs: np.ndarray, n_beads: int, c: Comparison) -> None:
    """Reference below the diagonal of the picture (lower right), model above it."""
    image = np.full((n_beads, n_beads), np.nan)
    i, j = pairs.T
    image[i, j], image[j, i] = c.reference.mean, c.model.mean
    ax.imshow(image, vmin=0, vmax=1, cmap="viridis", origin="lower")
    ax.set_xlabel("lower right: reference, upper left: model", fontsize=7)


def _legend() -> Section:
    return Section(
        "How to read this",
        "Means over runs (reference) and replicas (model), bands of one standard error from the spread "
        "between them. JS: Jensen-Shannon divergence of the histograms, overflow included; JS floor: the "
        "same between two halves of the reference runs, which no model can be expected to beat. W1: earth "
        "mover's distance in the unit of the observable; contacts: mean absolute difference of contact "
        "probabilities. Frames after a replica's failure are not in its trajectory.",
    )
