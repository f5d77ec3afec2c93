"""Figures and tables of `cgrefine observe`: distributions, residues one by one, free-energy surfaces."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cgrefine.data.store import Domain
from cgrefine.observables.compare import jensen_shannon_rows, wasserstein_rows
from cgrefine.observables.histogram import density
from cgrefine.observables.pairs import separated_pairs
from cgrefine.observables.secondary import HELIX, STRAND
from cgrefine.residues import RESIDUES

if TYPE_CHECKING:
    from cgrefine.cli.observe import Comparison, SurfacePair

CENTRE = {"bond": 0, "angle": 1, "dihedral": 1}
"""Which bead of its tuple a coordinate is listed under: bonds at their first, the others at the second."""

SIDES = ("reference", "model")


def distributions(domain: Domain, found: Sequence["Comparison"], contact_separation: int) -> Figure:
    """One panel an observable, reference and model with bands of a standard error."""
    pairs = separated_pairs(domain.topology, contact_separation)
    columns = 4
    rows = -(-len(found) // columns)
    fig = _figure(3.2 * columns, 2.6 * rows)
    for index, c in enumerate(found):
        ax = fig.add_subplot(rows, columns, index + 1)
        if c.observable.grid is not None:
            _draw_density(ax, c)
        elif c.observable.name == "contacts":
            _draw_contacts(ax, pairs, domain.topology.n_beads, c)
        else:
            _draw_along_chain(ax, domain, c)
        ax.set_title(c.observable.name, fontsize=10)
        if index == 0:
            ax.legend(fontsize=7)
    fig.suptitle(f"{domain.name}: reference and model")
    return fig


def _figure(width: float, height: float) -> Figure:
    """A figure with fixed margins, in inches: to have them computed takes longer than to draw all of it."""
    fig = Figure(figsize=(width, height))
    sides = {"left": 0.7 / width, "right": 1 - 0.2 / width}
    fig.subplots_adjust(**sides, bottom=0.55 / height, top=1 - 0.65 / height, wspace=0.35, hspace=0.6)
    return fig


def _draw_density(ax: Axes, c: "Comparison") -> None:
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


def _draw_contacts(ax: Axes, pairs: np.ndarray, n_beads: int, c: "Comparison") -> None:
    """Reference below the diagonal of the picture (lower right), model above it."""
    image = np.full((n_beads, n_beads), np.nan)
    i, j = pairs.T
    image[i, j], image[j, i] = c.reference.mean, c.model.mean
    ax.imshow(image, vmin=0, vmax=1, cmap="viridis", origin="lower")
    ax.set_xlabel("lower right: reference, upper left: model", fontsize=7)


def _draw_along_chain(ax: Axes, domain: Domain, c: "Comparison") -> None:
    """RMSF, or the share of helix (solid) and strand (dashed), at each residue."""
    resid = domain.topology.resid
    for colour, (side, value) in zip(
        ("C0", "C1"), zip(SIDES, (c.reference, c.model), strict=True), strict=True
    ):
        for row, style in zip(np.atleast_2d(value.mean), ("-", "--"), strict=False):
            ax.plot(resid, row, style, color=colour, linewidth=1.2, label=side if style == "-" else None)
        for row, error in zip(np.atleast_2d(value.mean), np.atleast_2d(value.stderr), strict=True):
            ax.fill_between(resid, row - error, row + error, color=colour, alpha=0.25)
    ax.set_xlabel("residue")
    ax.set_ylabel(c.observable.unit or "probability")


def residue_columns(domain: Domain, found: Sequence["Comparison"]) -> dict[str, list[object]]:
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


def residues(domain: Domain, found: Sequence["Comparison"]) -> Figure:
    """Densities of bonds, angles and dihedrals of each residue: reference, model."""
    each = [c for c in found if not c.pooled]
    fig = _figure(9.0, 2.6 * max(len(each), 1))
    for row, c in enumerate(each):
        grid = c.observable.grid
        assert grid is not None
        p, q = (density(e.mean, grid) for e in (c.reference, c.model))
        used = np.flatnonzero((p + q).sum(0) > 0)
        for column, (side, image) in enumerate(zip(SIDES, (p, q), strict=True)):
            ax = fig.add_subplot(len(each), 2, 2 * row + column + 1)
            extent = (0.5, len(image) + 0.5, grid.low, grid.high)
            top = float(np.quantile(p[p > 0], 0.99)) if (p > 0).any() else 1.0
            ax.imshow(image.T, origin="lower", aspect="auto", extent=extent, vmin=0, vmax=top)
            if len(used):
                ax.set_ylim(float(grid.edges[used[0]]), float(grid.edges[used[-1] + 1]))
            ax.set_title(f"{c.observable.name}, {side}", fontsize=9)
            ax.set_ylabel(c.observable.unit)
    fig.suptitle(f"{domain.name}: densities along the chain")
    return fig


def surfaces(domain: Domain, found: Sequence["SurfacePair"]) -> Figure:
    """A row a surface: reference, model, model minus reference, kcal/mol; white where no frame was."""
    fig = _figure(12.0, 3.2 * len(found))
    for row, s in enumerate(found):
        x, y = s.grids
        extent = (x.low, x.high, y.low, y.high)
        both = (s.reference.free_energy, s.model.free_energy)
        top = max([float(np.nanmax(f)) for f in both if np.isfinite(f).any()], default=1.0)
        gap = s.difference.difference
        reach = float(np.nanmax(np.abs(gap))) if np.isfinite(gap).any() else 1.0
        panels = [(*both, gap), (*SIDES, "model - reference")]
        limits = [(0.0, top, "viridis"), (0.0, top, "viridis"), (-reach, reach, "RdBu_r")]
        for column, (image, title, (low, high, colours)) in enumerate(zip(*panels, limits, strict=True)):
            ax = fig.add_subplot(len(found), 3, 3 * row + column + 1)
            shown = ax.imshow(
                image.T, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap=colours
            )
            fig.colorbar(shown, ax=ax, label="kcal/mol")
            ax.set(xlabel=s.axes[0], ylabel=s.axes[1], title=str(title))
    fig.suptitle(f"{domain.name}: free energy")
    return fig
