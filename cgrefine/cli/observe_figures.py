"""Plots of `cgrefine observe`: distributions, residues one by one, free-energy surfaces."""

from collections.abc import Sequence

import numpy as np

from cgrefine.cli.observe_findings import Comparison, SurfacePair
from cgrefine.data.store import Domain
from cgrefine.observables.histogram import Bins, density
from cgrefine.observables.pairs import separated_pairs
from cgrefine.observables.secondary import HELIX, STRAND
from cgrefine.report.plot import Axis, Band, HeatMap, Line, Mark, Plot
from cgrefine.system import Topology

SEEN = 1e-4
"""Mass of a bin from which on it is shown."""
OUTSIDE = 1e-3
"""Mass beyond the bins from which on it is told."""
FLOOR = "noise floor of the reference"
REFERENCE, MODEL = 0, 1
"""Colours."""


def distributions(domain: Domain, found: Sequence[Comparison], contact_separation: int) -> list[Plot]:
    """One plot an observable: reference with its noise floor, model with its standard error."""
    plots = []
    for c in found:
        if c.observable.grid is not None:
            plots.append(_densities(c, c.observable.grid))
        elif c.observable.name == "contacts":
            pairs = separated_pairs(domain.topology, contact_separation)
            plots += contacts(domain.topology, pairs, c.reference.mean, c.model.mean)
        else:
            plots += _along_chain(domain.topology, c)
    return plots


def _densities(c: Comparison, grid: Bins) -> Plot:
    """Densities over the bins in use."""
    used = np.flatnonzero((c.reference.mean + c.model.mean)[1:-1] > SEEN)
    shown = slice(used[0], used[-1] + 1) if len(used) else slice(None)
    x = grid.centres[shown]
    p, floor, q, error = (
        density(v, grid)[shown] for v in (c.reference.mean, c.floor, c.model.mean, c.model.stderr)
    )
    unit = c.observable.unit
    outside = [
        f"{100 * share:.2g} % of the {side} beyond the bins"
        for side, value in (("reference", c.reference.mean), ("model", c.model.mean))
        if (share := value[0] + value[-1]) > OUTSIDE
    ]
    return Plot(
        ": ".join([c.observable.name, *([", ".join(outside)] if outside else [])]),
        Axis(f"{c.observable.name}, {unit}" if unit else c.observable.name),
        Axis(f"density, 1/{unit}" if unit else "density"),
        _two_sides(x, p, floor, q, error),
    )


def _two_sides(
    x: np.ndarray, p: np.ndarray, floor: np.ndarray, q: np.ndarray, error: np.ndarray
) -> list[Mark]:
    return [
        *_banded(x, p, floor, "reference", FLOOR, REFERENCE),
        *_banded(x, q, error, "model", "", MODEL),
    ]


def _banded(x: np.ndarray, y: np.ndarray, error: np.ndarray, name: str, band: str, colour: int) -> list[Mark]:
    """A line of what is never negative, and about it a band where there is an error."""
    line = Line(x, y, name, colour=colour)
    return (
        [line, Band(x, np.maximum(y - error, 0.0), y + error, band, colour)]
        if np.isfinite(error).any()
        else [line]
    )


def contacts(topology: Topology, pairs: np.ndarray, reference: np.ndarray, model: np.ndarray) -> list[Plot]:
    """Two maps of the pairs (p, 2): reference below the diagonal and model above it; and their difference."""
    numbers, axis = residues_of(topology)
    edges = np.append(numbers - 0.5, numbers[-1] + 0.5)
    i, j = pairs.T
    both, difference = np.full((2, len(numbers), len(numbers)), np.nan)
    # first index along x: i < j is to the lower right
    both[j, i], both[i, j] = reference, model
    difference[i, j] = difference[j, i] = model - reference
    maps = (
        ("contacts: reference below the diagonal, model above", both, "probability", (0.0, 1.0)),
        ("contacts: model − reference", difference, "Δ probability", None),
    )
    return [
        Plot(
            caption, axis, axis,
            [HeatMap(edges, edges, values, label, about_zero=limits is None, limits=limits)],
            square=True,
        )
        for caption, values, label, limits in maps
    ]  # fmt: skip


def residues_of(topology: Topology) -> tuple[np.ndarray, Axis]:
    """(n,) numbers of the residues in their file where they count up one by one, otherwise 1 to n."""
    if (np.diff(topology.resid) == 1).all():
        return np.asarray(topology.resid), Axis("residue")
    return np.arange(1, topology.n_beads + 1), Axis("residue, counted along the chain")


def _along_chain(topology: Topology, c: Comparison) -> list[Plot]:
    """RMSF, or the shares of helix and of strand, at each residue."""
    numbers, axis = residues_of(topology)
    rows = {"helix": HELIX, "strand": STRAND} if c.reference.mean.ndim == 2 else {c.observable.name: 0}
    arrays = [np.atleast_2d(v) for v in (c.reference.mean, c.floor, c.model.mean, c.model.stderr)]
    name, unit = c.observable.name, c.observable.unit
    return [
        Plot(label, axis, Axis(f"{name}, {unit}" if unit else "probability"),
             _two_sides(numbers, *(v[row] for v in arrays)))
        for label, row in rows.items()
    ]  # fmt: skip


def residues(found: Sequence[Comparison]) -> list[Plot]:
    """Densities of bonds, angles and dihedrals along the chain: reference, and model on its colour scale."""
    return [
        plot
        for c in found
        if not c.pooled and c.observable.grid is not None
        for plot in _each(c, c.observable.grid)
    ]


def _each(c: Comparison, grid: Bins) -> list[Plot]:
    p, q = (density(e.mean, grid) for e in (c.reference, c.model))
    used = np.flatnonzero((p + q).sum(0) > 0)
    shown = slice(used[0], used[-1] + 1) if len(used) else slice(None)
    top = float(np.quantile(p[p > 0], 0.99)) if (p > 0).any() else 1.0
    numbers = np.arange(len(p) + 1) + 0.5
    edges = grid.edges[shown.start : None if shown.stop is None else shown.stop + 1]
    kind, unit = c.observable.name.split()[0], c.observable.unit
    return [
        Plot(
            f"{c.observable.name}, {side}",
            Axis(f"{kind}, counted along the chain"),
            Axis(f"{kind}, {unit}"),
            [HeatMap(numbers, edges, np.where(d > 0, d, np.nan)[:, shown], f"density, 1/{unit}",
                     limits=(0.0, top))],
        )
        for side, d in (("reference", p), ("model", q))
    ]  # fmt: skip


def surface(name: str, pair: SurfacePair) -> list[Plot]:
    """Reference and model, each above its minimum and on one scale, and model − reference, kcal/mol.

    Blank where no frame was.
    """
    x, y = pair.grids
    both = (pair.reference.free_energy, pair.model.free_energy)
    top = max([float(np.nanmax(f)) for f in both if np.isfinite(f).any()], default=1.0)
    shown = (
        (f"F of {name}, reference", both[0], "F, kcal/mol", (0.0, top)),
        (f"F of {name}, model", both[1], "F, kcal/mol", (0.0, top)),
        (f"F of {name}, model − reference", pair.difference.difference, "ΔF, kcal/mol", None),
    )
    return [
        Plot(
            caption, Axis(pair.axes[0]), Axis(pair.axes[1]),
            [HeatMap(x.edges, y.edges, values, label, about_zero=limits is None, limits=limits)],
        )
        for caption, values, label, limits in shown
    ]  # fmt: skip
