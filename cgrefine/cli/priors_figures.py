"""Plots of the page of the stage `priors`: fitted terms against the data, and the size of pairs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cgrefine import residues
from cgrefine.fm.priors import classes, marginals
from cgrefine.fm.priors.diagnostics import COARSE, bonded_terms, implied, scheme_of, term_energies
from cgrefine.fm.priors.marginals import Histogram, Marginals
from cgrefine.report import plot as described
from cgrefine.report.plot import Axis, Band, HeatMap, Line, Mark, Plot

MAX_ROWS = 12
"""Rows of a term that are shown, those with the most data."""
HIGHEST_KT = 10.0
"""Of the energy, above its lowest value in sight."""

COORDINATES = {
    "bond": ("Cα-Cα distance", "Å", 1.0, (3.5, 4.1)),
    "angle": ("angle", "°", 180.0 / np.pi, (60.0, 180.0)),
    "dihedral": ("dihedral", "°", 180.0 / np.pi, (-180.0, 180.0)),
}
"""Name, unit on the page, how many of it are an Å or rad, and what is shown."""


def term(
    name: str,
    facts: Mapping[str, Any],
    params: Mapping[str, Any],
    reference: Marginals,
    simulated: Marginals | None,
    kT: float,
    band: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Plot]:
    """The rows of a bonded term with the most data, at most MAX_ROWS, two plots each.

    Counted, implied and simulated density; energy in kT with its standard error, band = (x, (rows, points)
    kcal/mol) of `FittedPriors.bands`, and to the right the force on the coordinate in kT per Å or rad.
    """
    found = bonded_terms(facts)[name]
    kind, scheme, factor = found.kind, scheme_of(found), COARSE[found.kind]
    fine = marginals.grouped(getattr(reference, kind), kind, scheme)
    moving = None
    if simulated is not None:
        moving = marginals.coarser(marginals.grouped(getattr(simulated, kind), kind, scheme), factor)
    counted, names = marginals.coarser(fine, factor), classes.labels(kind, scheme)
    n = counted.counts.sum(axis=1)
    p = implied(found, params[name], kT, fine.edges)
    u = term_energies(found, params[name], fine.centres) / kT
    plots = []
    for row in np.argsort(-n, kind="stable")[:MAX_ROWS].tolist():
        if n[row] > 0:
            spread = None if band is None else (band[0], band[1][row] / kT)
            title = f"{name} {names[row]}"
            plots += [
                _densities(f"{title}, n = {n[row]:.0f}", kind, counted, moving, row, fine, p[row]),
                _energy_and_force(f"{title}: energy and force", kind, fine, row, u[row], spread),
            ]
    return plots


def _densities(
    caption: str,
    kind: str,
    counted: Histogram,
    moving: Histogram | None,
    row: int,
    fine: Histogram,
    p: np.ndarray,
) -> Plot:
    _, unit, factor, _ = COORDINATES[kind]
    axis = _axis(kind, fine, row)
    marks: list[Mark] = [_histogram(counted, row, factor, axis, "reference")]
    x = fine.centres * factor
    inside = _inside(x, axis)
    marks.append(Line(x[inside], (p / (x[1] - x[0]))[inside], "implied by the term"))
    if moving is not None and moving.counts[row].sum() > 0:
        marks.append(_histogram(moving, row, factor, axis, "priors alone, MD"))
    return Plot(caption, axis, Axis(f"density, 1/{unit}"), marks)


def _histogram(found: Histogram, row: int, factor: float, axis: Axis, name: str) -> described.Histogram:
    """The bins that are shown, as a density over all of them."""
    edges = found.edges * factor
    heights = found.counts[row] / found.counts[row].sum() / np.diff(edges)
    inside = np.flatnonzero(_inside(0.5 * (edges[1:] + edges[:-1]), axis))
    first, last = inside[0], inside[-1] + 1
    return described.Histogram(edges[first : last + 1], heights[first:last], name)


def _energy_and_force(
    caption: str,
    kind: str,
    fine: Histogram,
    row: int,
    u: np.ndarray,
    spread: tuple[np.ndarray, np.ndarray] | None,
) -> Plot:
    """u (bins,) kT of one row, and minus its slope."""
    factor, axis = COORDINATES[kind][2], _axis(kind, fine, row)
    x = fine.centres * factor
    inside = _inside(x, axis)
    zero, force = u[inside].min(), -np.gradient(u, fine.centres)
    marks: list[Mark] = [Line(x[inside], u[inside] - zero, "energy", colour=1)]
    if spread is not None:
        middle = np.interp(spread[0], fine.centres, u) - zero
        seen = _inside(spread[0] * factor, axis)
        low, high = ((middle + sign * spread[1])[seen] for sign in (-1, 1))
        marks.append(Band(spread[0][seen] * factor, low, high, "± standard error", colour=1))
    marks.append(Line(x[inside], force[inside], "force", dashed=True, colour=0, right=True))
    low_enough = inside & (u - zero < HIGHEST_KT)
    size = max(float(np.abs(force[low_enough]).max()), 1e-3)
    return Plot(
        caption,
        axis,
        Axis("energy, kT", limits=(-0.5, HIGHEST_KT)),
        marks,
        right=Axis(f"force, kT/{'Å' if kind == 'bond' else 'rad'}", limits=(-1.1 * size, 1.1 * size)),
    )


def _axis(kind: str, histogram: Histogram, row: int) -> Axis:
    """The coordinate in its usual range, or around 2.95 Å for a row of cis bonds."""
    name, unit, _, (low, high) = COORDINATES[kind]
    shift = -0.85 if kind == "bond" and row == len(histogram.counts) - 1 else 0.0
    return Axis(f"{name}, {unit}", limits=(low + shift, high + shift))


def _inside(x: np.ndarray, axis: Axis) -> np.ndarray:
    assert axis.limits is not None
    return (x > axis.limits[0]) & (x < axis.limits[1])


def sizes(sigma: np.ndarray) -> Plot:
    """σ of the repulsion of each pair of species (20, 20), Å."""
    edges = np.arange(residues.N_SPECIES + 1) - 0.5
    axis = Axis("residue", names=list(residues.ONE_LETTER))
    return Plot("Size of pairs", axis, axis, [HeatMap(edges, edges, sigma, "σ, Å")], square=True)
