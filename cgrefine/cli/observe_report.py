"""The page of `cgrefine observe` and its tables: observables, residues one by one, free energies."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cgrefine.cli import observe_figures as figures
from cgrefine.cli.observe_findings import Comparison, Findings, SurfacePair
from cgrefine.config.running import Observables
from cgrefine.data.store import Domain
from cgrefine.observables.compare import jensen_shannon_rows, wasserstein_rows
from cgrefine.observables.secondary import HELIX, STRAND
from cgrefine.observables.statistics import BLOCKS
from cgrefine.report.page import Section, Table, save_plots
from cgrefine.report.plot import Plot
from cgrefine.residues import RESIDUES

CENTRE = {"bond": 0, "angle": 1, "dihedral": 1}
"""Which bead of its tuple a coordinate is listed under: bonds at their first, the others at the second."""

SIDES = ("reference", "model")

COLUMNS = (
    "observable", "unit", "mean, reference", "mean, model", "JS (nats)", "±", "JS floor",
    "W1 or mean |Δ|", "±", "floor",
)  # fmt: skip


def sections(folder: Path, domain: Domain, found: Findings, text: str, cfg: Observables) -> list[Section]:
    """Pooled observables, residues, surfaces; their figures and tables are written to `folder`, too."""
    name = domain.name
    made = [_pooled(folder, domain, found, text, cfg)]
    if columns := residue_columns(domain, found.comparisons):
        write_residues(folder / f"residues_{name}.csv", columns)
        table = Table(list(columns), list(zip(*columns.values(), strict=True)))
        plots = figures.residues(found.comparisons) if cfg.per_residue else []
        _save(folder, f"{name}_residues", plots, 2)
        made.append(Section(f"{name}, by residue", "", table, plots=plots, columns=2))
    if found.surfaces:
        plots = [plot for key, pair in found.surfaces.items() for plot in figures.surface(key, pair)]
        _save(folder, f"{name}_free_energy", plots, 3)
        text = " ".join(_surface_text(key, pair) for key, pair in found.surfaces.items())
        made.append(Section(f"{name}, free energy", text, plots=plots, columns=3))
    return made


def _pooled(folder: Path, domain: Domain, found: Findings, text: str, cfg: Observables) -> Section:
    if found.blocks:
        text += f" Errors of {' and '.join(found.blocks)} are from {BLOCKS} blocks of the only run."
    if found.diffusion is not None:
        d = found.diffusion
        text += (
            f" Centre of mass of the model: D = {d.D:.3g} ± {d.stderr:.2g} Å²/ps from lags of "
            f"{d.fit_ps[0]:g} to {d.fit_ps[1]:g} ps."
        )
    pooled = [c for c in found.comparisons if c.pooled]
    plots = figures.distributions(domain, pooled, cfg.contact_min_separation)
    _save(folder, domain.name, plots, 3)
    return Section(domain.name, text, Table(COLUMNS, [_row(c) for c in pooled]), plots=plots, columns=3)


def _save(folder: Path, name: str, plots: Sequence[Plot], columns: int) -> None:
    if plots:
        save_plots(folder / "figures" / f"{name}.png", *plots, columns=columns)


def _row(c: Comparison) -> tuple[object, ...]:
    js, d = c.jensen_shannon, c.distance
    shown = ("–",) * 3 if js is None else (js.value, js.stderr, js.floor)
    return (c.observable.name, c.observable.unit, *c.means(), *shown, d.value, d.stderr, d.floor)


def _surface_text(name: str, pair: SurfacePair) -> str:
    return (
        f"{name}: root mean square difference {pair.difference.rmse:.2f} kcal/mol over the "
        f"{100 * pair.difference.covered:.0f} % of the reference's frames where the model is, too; "
        f"{100 * pair.model.outside:.0f} % of the model's frames lie beyond the grid."
    )


def residue_columns(domain: Domain, found: Sequence[Comparison]) -> dict[str, list[object]]:
    """Column → a value for each residue, '–' where it has none; no columns without any of them."""
    topology = domain.topology
    columns: dict[str, list[object]] = {}

    def column(name: str, beads: np.ndarray, values: np.ndarray) -> None:
        cells: list[object] = ["–"] * topology.n_beads
        for bead, value in zip(beads, values, strict=True):
            cells[bead] = float(value)
        columns[name] = cells

    every = np.arange(topology.n_beads)
    for c in found:
        name, grid = c.observable.name, c.observable.grid
        p, q = c.reference.mean, c.model.mean
        if not c.pooled and grid is not None:
            kind = name.split()[0]
            beads = getattr(topology, f"{kind}s")[:, CENTRE[kind]]
            column(f"JS {kind}, nats", beads, jensen_shannon_rows(p, q))
            column(f"W1 {kind}, {c.observable.unit}", beads, wasserstein_rows(p, q, grid))
        elif name == "RMSF":
            for side, value in zip(SIDES, (p, q), strict=True):
                column(f"RMSF {side}, Å", every, value)
        elif name == "secondary structure":
            for row, label in ((HELIX, "helix"), (STRAND, "strand")):
                for side, value in zip(SIDES, (p, q), strict=True):
                    column(f"{label} {side}", every, value[row])
    if not columns:
        return {}
    names = [RESIDUES[s] for s in topology.species]
    return {"residue": [f"{n} {r}" for n, r in zip(names, topology.resid, strict=True)], **columns}


def write_residues(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    """The table as CSV; what a residue does not have is empty."""
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow("" if cell == "–" else cell for cell in row)


def legend() -> Section:
    """What the numbers and the bands are."""
    return Section(
        "How to read this",
        "Means over runs (reference) and replicas (model). Bands: about the model one standard error, from "
        "the spread between replicas; about the reference its noise floor, the mean difference between two "
        "halves of its runs. JS: Jensen-Shannon divergence of the histograms, overflow included; W1: earth "
        "mover's distance in the unit of the observable, either way round for dihedrals; of contacts, "
        "secondary structure and RMSF the mean absolute difference. ±: bootstrap over runs and replicas. "
        "Floor: the same distance between two halves of the reference runs, mean over the ways to halve "
        "them: half the data on each side, so that a model as good as the reference may lie below it. Native "
        "(Q, RMSD, RMSF): first frame of the first run at the lowest temperature. Frames after a replica's "
        "failure are not in its trajectory.",
    )
