"""`cgrefine observe`: distributions of the simulated replicas against the reference, with plots."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cgrefine import units
from cgrefine.artifacts import Stage, write_json
from cgrefine.checkpoint import save_params
from cgrefine.cli import observe_report as report
from cgrefine.cli.console import Console
from cgrefine.cli.dynamics import as_run
from cgrefine.cli.simulate_exchange import trajectories_at
from cgrefine.config.running import Observables, Sim
from cgrefine.config.schema import Config
from cgrefine.data.store import Domain, open_dataset
from cgrefine.errors import InputError
from cgrefine.observables import compare, free_energy
from cgrefine.observables.catalogue import measures, standard
from cgrefine.observables.compare import Compared
from cgrefine.observables.dynamics import Diffusion, diffusion
from cgrefine.observables.free_energy import Surface
from cgrefine.observables.histogram import Bins
from cgrefine.observables.statistics import (
    BLOCKS,
    Correlation,
    Estimate,
    correlation,
    estimate_of_means,
    independent,
)
from cgrefine.observables.structure import Averages, Observable, averager
from cgrefine.report.page import Section, Table, data_uri, png, write_page
from cgrefine.sim.trajectory import read_frames

COLUMNS = (
    "observable", "unit", "mean, reference", "mean, model", "JS (nats)", "±", "JS floor",
    "W1 or mean |Δ|", "±", "floor",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """One observable of one domain: estimates of reference and model, and their distances by name."""

    observable: Observable
    reference: Estimate
    model: Estimate
    distances: dict[str, Compared]

    @property
    def jensen_shannon(self) -> Compared | None:
        """Of a histogram."""
        return self.distances.get("jensen_shannon")

    @property
    def distance(self) -> Compared:
        """Wasserstein-1 of a histogram, otherwise the mean absolute difference."""
        return self.distances["mean_absolute" if self.jensen_shannon is None else "wasserstein"]

    @property
    def pooled(self) -> bool:
        """Not a histogram of each residue."""
        return self.observable.grid is None or len(self.observable.shape) == 1

    def means(self) -> tuple[float, float]:
        """Of the coordinate of a histogram, or of all entries: reference and model."""
        grid = self.observable.grid
        both = (self.reference.mean, self.model.mean)
        found = [float(m.mean()) if grid is None else compare.histogram_mean(m, grid) for m in both]
        return found[0], found[1]

    def row(self) -> tuple[object, ...]:
        """A row of the report's table."""
        js, d = self.jensen_shannon, self.distance
        shown = ("–",) * 3 if js is None else (js.value, js.stderr, js.floor)
        return (self.observable.name, self.observable.unit, *self.means(), *shown, d.value, d.stderr, d.floor)


@dataclass(frozen=True)
class SurfacePair:
    """A free-energy surface of both sides. axes: names; grids: of them; kT in kcal/mol."""

    axes: tuple[str, str]
    grids: tuple[Bins, Bins]
    reference: Surface
    model: Surface
    difference: free_energy.Difference


@dataclass(frozen=True)
class Findings:
    """All about a domain. correlations: measure → side → time; blocks: sides that are a single run."""

    comparisons: list[Comparison]
    correlations: dict[str, dict[str, Correlation]]
    surfaces: dict[str, SurfacePair]
    blocks: list[str]
    diffusion: Diffusion | None = None
    tica: free_energy.Tica | None = field(default=None)


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/ and simulate/; write observables.json, figures, tables, arrays and report.html."""
    assert config.sim is not None
    sim = as_run(config.sim, root / "simulate")
    if sim.exchange is not None and config.observables.diffusion_fit_ps is not None:
        raise InputError(
            "observables.diffusion_fit_ps: frames at one temperature of a run with sim.exchange come from "
            "several replicas, and have no dynamics; leave it out"
        )
    dataset = open_dataset(root / "prepare")
    names = sorted({_domain_of(p) for p in (root / "simulate" / "trajectories").iterdir()})
    (stage.path / "figures").mkdir()
    sections, summary, compared = [], {}, {}
    for name in console.track(names, total=len(names), label="observables"):
        domain = dataset.domain(name)
        temperature, reference = reference_groups(domain, sim.temperature_K)
        model = model_groups(root / "simulate", name, config.observables.discard_fraction, sim.temperature_K)
        found = findings(domain, reference, model, temperature, config.observables, sim)
        text = f"{len(reference)} reference runs at {temperature:g} K, {len(model)} model replicas."
        sections += _sections(stage.path / "figures", domain, found, text, config.observables)
        summary[name] = {"reference_temperature_K": temperature, **_numbers(found)}
        compared[name] = found.comparisons
        save_params(stage.path / f"{name}.npz", _arrays(found))
    _record(stage, compared)
    write_json(stage.path / "observables.json", summary)
    write_page(stage.path / "report.html", "Observables against the reference", [_legend(), *sections])


def findings(
    domain: Domain,
    reference: Sequence[np.ndarray],
    model: Sequence[np.ndarray],
    temperature_K: float,
    cfg: Observables,
    sim: Sim,
) -> Findings:
    """Every comparison of the frames (f, n, 3) Å of the reference's runs and the model's replicas.

    temperature_K: of the reference, which gives the unit of free energies.
    """
    native = native_frame(domain)
    observables = standard(domain.topology, cfg, native)
    average = averager(observables, measures(domain.topology, cfg, native))
    sides = {"reference": reference, "model": model}
    pieces = {side: independent(runs) for side, runs in sides.items()}
    averages = {side: [average(piece) for piece in parts] for side, parts in pieces.items()}
    estimates = {
        side: [estimate_of_means(o, np.stack([a.means[k] for a in parts])) for k, o in enumerate(observables)]
        for side, parts in averages.items()
    }
    comparisons = [
        Comparison(o, p, q, compare.compared(o, p, q, cfg.bootstrap_draws, cfg.floor_splits))
        for o, p, q in zip(observables, *estimates.values(), strict=True)
    ]
    correlations = {
        name: {side: correlation([a.series[name] for a in parts]) for side, parts in averages.items()}
        for name in averages["model"][0].series
    }
    tica = _tica(domain, reference, cfg)
    return Findings(
        comparisons,
        correlations,
        _surfaces(domain, pieces, averages, tica, units.thermal_energy(temperature_K), cfg),
        [side for side, runs in sides.items() if len(runs) == 1 and len(pieces[side]) > 1],
        _diffusion(model, cfg, sim),
        tica,
    )


def native_frame(domain: Domain) -> np.ndarray:
    """The first frame of the first run at the lowest temperature: (n, 3) Å, what Q and RMSD refer to."""
    coldest = np.flatnonzero(np.asarray(domain.temperature_K) == np.min(domain.temperature_K))
    first = coldest[np.lexsort((np.asarray(domain.frame)[coldest], np.asarray(domain.replica)[coldest]))[0]]
    return np.asarray(domain.positions[first : first + 1])[0]


def _tica(domain: Domain, reference: Sequence[np.ndarray], cfg: Observables) -> free_energy.Tica | None:
    if not cfg.surface_bins or cfg.tica_lag_frames is None:
        return None
    pairs = free_energy.tica_pairs(domain.topology)
    return free_energy.tica([_distances(run, pairs) for run in reference], cfg.tica_lag_frames)


def _distances(frames: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(f, p) Å, on the host."""
    return np.linalg.norm(frames[:, pairs[:, 1]] - frames[:, pairs[:, 0]], axis=-1)


def _surfaces(
    domain: Domain,
    pieces: dict[str, Sequence[np.ndarray]],
    averages: dict[str, list[Averages]],
    tica: free_energy.Tica | None,
    kT: float,
    cfg: Observables,
) -> dict[str, SurfacePair]:
    """Rg-Q and TICA, as far as the chain has them, on grids that hold every frame of the reference."""
    points = {}
    if cfg.surface_bins and all("Q" in a.series for a in averages["reference"]):
        points["Rg-Q"] = (
            ("Rg, Å", "Q"),
            {
                side: [np.stack([a.series["Rg"], a.series["Q"]], axis=1) for a in parts]
                for side, parts in averages.items()
            },
        )
    if tica is not None:
        pairs = free_energy.tica_pairs(domain.topology)
        points["TICA"] = (
            ("TICA 1", "TICA 2"),
            {side: [tica(_distances(piece, pairs)) for piece in parts] for side, parts in pieces.items()},
        )
    found = {}
    for name, (axes, xy) in points.items():
        every = np.concatenate(xy["reference"])
        x, y = (free_energy.coordinate_grid([every[:, k]], cfg.surface_bins) for k in (0, 1))
        one, other = (
            free_energy.surface(xy[side], x, y, kT, cfg.bootstrap_draws) for side in ("reference", "model")
        )
        found[name] = SurfacePair(axes, (x, y), one, other, free_energy.compared(one, other, kT))
    return found


def _diffusion(model: Sequence[np.ndarray], cfg: Observables, sim: Sim) -> Diffusion | None:
    """Of the centre of mass of the model; the reference has been moved to its place frame by frame."""
    if cfg.diffusion_fit_ps is None:
        return None
    steps = max(1, round(1000.0 * sim.save_every_ps / sim.step_fs))
    centres = [np.asarray(run, np.float64).mean(axis=1, keepdims=True) for run in model]
    return diffusion(centres, steps * sim.step_fs / 1000.0, cfg.diffusion_fit_ps)


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


def model_groups(
    folder: Path, name: str, discard_fraction: float, temperature_K: float | None = None
) -> list[np.ndarray]:
    """Frames of each replica of a domain after the discarded share; replicas without any are left out.

    temperature_K: of a run with exchange, the trajectories at that temperature instead.
    Raises InputError when no frame is left at all.
    """
    pdb = folder / "topology" / f"{name}.pdb"
    chosen = None if temperature_K is None else trajectories_at(folder, temperature_K)
    files = [
        p
        for p in sorted((folder / "trajectories").iterdir())
        if _domain_of(p) == name and (chosen is None or p.name in chosen)
    ]
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


def _record(stage: Stage, compared: dict[str, list[Comparison]]) -> None:
    """One metric a pooled observable: the mean over domains, with the error of that mean."""
    by_name: dict[str, list[Comparison]] = {}
    for found in compared.values():
        for c in found:
            if c.pooled:
                by_name.setdefault(c.observable.name, []).append(c)

    def metric(name: str, values: list[Compared], unit: str | None) -> None:
        error = float(np.sqrt(np.sum([v.stderr**2 for v in values]))) / len(values)
        mean = float(np.mean([v.value for v in values]))
        stage.record.metric(name, mean, unit=unit, stderr=error if np.isfinite(error) else None)

    for name, found in by_name.items():
        key, unit = metric_key(name), found[0].observable.unit
        divergences = [c.jensen_shannon for c in found if c.jensen_shannon is not None]
        distances = [c.distance for c in found]
        if divergences:
            metric(f"js_{key}", divergences, "nats")
            metric(f"w1_{key}", distances, unit)
        else:
            metric("contact_map_mae" if name == "contacts" else f"mae_{key}", distances, unit or None)


def _numbers(found: Findings) -> dict[str, Any]:
    """What observables.json says of a domain."""
    observables = {}
    for c in found.comparisons:
        reference, model = c.means()
        js = c.jensen_shannon
        observables[c.observable.name] = {
            "unit": c.observable.unit,
            "reference_mean": reference,
            "model_mean": model,
            "jensen_shannon": None if js is None else js.value,
            "jensen_shannon_floor": None if js is None or np.isnan(js.floor) else js.floor,
            "distance": c.distance.value,
            "comparisons": {name: value._asdict() for name, value in c.distances.items()},
        }
    surfaces = {
        name: {
            "rmse_kcal_mol": s.difference.rmse,
            "jensen_shannon": s.difference.jensen_shannon,
            "covered": s.difference.covered,
            "outside_reference_grid": s.model.outside,
        }
        for name, s in found.surfaces.items()
    }
    numbers: dict[str, Any] = {
        "observables": observables,
        "autocorrelation": {
            name: {side: c._asdict() for side, c in sides.items()}
            for name, sides in found.correlations.items()
        },
        "free_energy_surfaces": surfaces,
        "errors_from_blocks": found.blocks,
    }
    if found.diffusion is not None:
        d = found.diffusion
        numbers["model_diffusion"] = {
            "D_A2_per_ps": d.D,
            "stderr": d.stderr,
            "D_dimensions_A2_per_ps": d.D_dimensions,
            "fit_ps": d.fit_ps,
            "groups": d.groups,
            "blocks_of_one_run": d.blocks,
        }
    return numbers


def _arrays(found: Findings) -> dict[str, dict[str, np.ndarray]]:
    """Observable or surface → its arrays on both sides, and the edges of its bins."""
    arrays = {}
    for c in found.comparisons:
        entry = {"reference": c.reference.mean, "reference_stderr": c.reference.stderr}
        entry |= {"model": c.model.mean, "model_stderr": c.model.stderr}
        if c.observable.grid is not None:
            entry["edges"] = c.observable.grid.edges
        arrays[c.observable.name] = entry
    for name, s in found.surfaces.items():
        arrays[f"surface {name}"] = {
            "x_edges": s.grids[0].edges,
            "y_edges": s.grids[1].edges,
            "difference": s.difference.difference,
            **{f"{side}_{k}": v for side in ("reference", "model") for k, v in _surface(s, side).items()},
        }
    if found.tica is not None:
        arrays["tica"] = {"mean": found.tica.mean, "components": found.tica.components}
    return arrays


def _surface(pair: SurfacePair, side: str) -> dict[str, np.ndarray]:
    s: Surface = getattr(pair, side)
    return {"mass": s.mass, "free_energy": s.free_energy, "stderr": s.stderr}


def _sections(folder: Path, domain: Domain, found: Findings, text: str, cfg: Observables) -> list[Section]:
    """Of the report: pooled observables, residues, surfaces; their figures and tables are written, too."""
    name = domain.name
    if found.blocks:
        text += f" Errors of {' and '.join(found.blocks)} are from {BLOCKS} blocks of the only run."
    if found.diffusion is not None:
        d = found.diffusion
        text += (
            f" Centre of mass of the model: D = {d.D:.3g} ± {d.stderr:.2g} Å²/ps from lags of "
            f"{d.fit_ps[0]:g} to {d.fit_ps[1]:g} ps."
        )
    pooled = [c for c in found.comparisons if c.pooled]
    drawn = _drawn(folder / f"{name}.png", report.distributions(domain, pooled, cfg.contact_min_separation))
    sections = [Section(name, text, Table(COLUMNS, [c.row() for c in pooled]), [drawn])]
    if columns := report.residue_columns(domain, found.comparisons):
        report.write_residues(folder.parent / f"residues_{name}.csv", columns)
        rows = list(zip(*columns.values(), strict=True))
        figures = []
        if cfg.per_residue:
            path = folder / f"{name}_residues.png"
            figures.append(_drawn(path, report.residues(domain, found.comparisons)))
        sections.append(Section(f"{name}, by residue", "", Table(list(columns), rows), figures))
    if found.surfaces:
        drawn = _drawn(
            folder / f"{name}_free_energy.png", report.surfaces(domain, list(found.surfaces.values()))
        )
        told = [
            f"{key}: root mean square difference {s.difference.rmse:.2f} kcal/mol over the "
            f"{100 * s.difference.covered:.0f} % of the reference's frames where the model is, too; "
            f"{100 * s.model.outside:.0f} % of the model's frames lie beyond the grid."
            for key, s in found.surfaces.items()
        ]
        sections.append(Section(f"{name}, free energy", " ".join(told), None, [drawn]))
    return sections


def _drawn(path: Path, fig: Figure) -> str:
    """The figure as a file, and as a data URI; drawn once, which costs more than what it shows."""
    image = png(fig)
    path.write_bytes(image)
    return data_uri(image)


def _legend() -> Section:
    return Section(
        "How to read this",
        "Means over runs (reference) and replicas (model), bands of one standard error from the spread "
        "between them. JS: Jensen-Shannon divergence of the histograms, overflow included; W1: earth "
        "mover's distance in the unit of the observable, either way round for dihedrals; of contacts, "
        "secondary structure and RMSF the mean absolute difference. ±: bootstrap over runs and replicas. "
        "Floor: the same distance between two halves of the reference runs, mean over the ways to halve "
        "them: half the data on each side, so that a model as good as the reference may lie below it. Native "
        "(Q, RMSD, RMSF): first frame of the first run at the lowest temperature. Frames after a replica's "
        "failure are not in its trajectory.",
    )
