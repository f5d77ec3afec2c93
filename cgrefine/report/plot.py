"""Plots described once, in plain values: `interactive` draws them for a page, `static` as PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = Sequence[Any] | np.ndarray
"""Numbers, NaN where there is none."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#D2003C", "#0F96A5", "#3C69FF")
"""Contrast of at least 3:1 with white and with near black (WCAG 2.2, 1.4.11); told apart by protanopes and
deuteranopes (CIE 1976 difference of at least 25 by Machado et al., IEEE TVCG 15, 1291, 2009). The first three
are of Okabe & Ito (2008)."""
GREY = "#7F7F7F"


@dataclass(frozen=True)
class Axis:
    """label: what and in which unit. limits: (lowest, highest) shown, in data units; None: as the marks need.

    whole: ticks at whole numbers only, as of epochs. names: the places 0, 1, … are categories of these names,
    not numbers (x only).
    """

    label: str
    log: bool = False
    whole: bool = False
    limits: tuple[float, float] | None = None
    names: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class Line:
    """Points (x, y), joined (`line`), marked (`points`), or both; a step holds its value up to the next x.

    error: bars of ± error, or of (below, above). name: in the legend; none without. dashed: for what is only
    compared with. colour: index in COLOURS; by default the place among the named marks of the plot.
    """

    x: Values
    y: Values
    name: str = ""
    error: Values | tuple[Values, Values] | None = None
    line: bool = True
    points: bool = False
    step: bool = False
    dashed: bool = False
    colour: int | None = None


@dataclass(frozen=True, eq=False)
class Histogram:
    """Outline of n bars between n + 1 edges; NaN leaves a gap."""

    edges: Values
    heights: Values
    name: str = ""
    colour: int | None = None


@dataclass(frozen=True, eq=False)
class Band:
    """Shaded between low and high, each at x."""

    x: Values
    low: Values
    high: Values
    name: str = ""
    colour: int | None = None


@dataclass(frozen=True, eq=False)
class Bars:
    """A bar at each category of `Plot.x.names`, beside those of the other Bars of the plot."""

    heights: Values
    name: str = ""
    error: Values | None = None
    colour: int | None = None


@dataclass(frozen=True, eq=False)
class HeatMap:
    """values: (n_x, n_y) on cells between x_edges (n_x + 1) and y_edges (n_y + 1); label: theirs, with unit.

    NaN is blank, and so is 0 on a logarithmic scale.
    """

    x_edges: Values
    y_edges: Values
    values: np.ndarray
    label: str
    log: bool = False


@dataclass(frozen=True, eq=False)
class Level:
    """A dashed line all across at one y, or with `vertical` at one x; grey unless it has a name or colour."""

    at: float
    name: str = ""
    vertical: bool = False
    colour: int | None = None


Mark = Line | Histogram | Band | Bars | HeatMap | Level


@dataclass(frozen=True, eq=False)
class Plot:
    """One pair of axes. caption: what is seen, above it. square: one unit is as long in x as in y."""

    caption: str
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    square: bool = False

    def __post_init__(self):
        for mark in self.marks:
            _check(self, mark)


def _check(plot: Plot, mark: Mark) -> None:
    """ValueError where lengths do not belong together."""
    match mark:
        case Line():
            lengths = {"y": (len(mark.y), len(mark.x))}
            if mark.error is not None:
                below, above = sides(mark.error)
                lengths |= {"error": (max(len(below), len(above)), len(mark.x))}
        case Histogram():
            lengths = {"heights": (len(mark.heights), len(mark.edges) - 1)}
        case Band():
            lengths = {"low": (len(mark.low), len(mark.x)), "high": (len(mark.high), len(mark.x))}
        case Bars():
            lengths = {"heights": (len(mark.heights), len(plot.x.names or ()))}
            if mark.error is not None:
                lengths["error"] = (len(mark.error), len(mark.heights))
        case HeatMap():
            cells = np.shape(mark.values)
            lengths = {"values along x": (cells[0], len(mark.x_edges) - 1),
                       "values along y": (cells[1], len(mark.y_edges) - 1)}  # fmt: skip
        case Level():
            lengths = {}
    for name, (found, needed) in lengths.items():
        if found != needed:
            kind = f"{type(mark).__name__} '{getattr(mark, 'name', '')}'"
            raise ValueError(f"plot '{plot.caption}': {kind} has {found} {name}, needs {needed}")


def sides(error: Values | tuple[Values, Values]) -> tuple[Values, Values]:
    """Lengths of error bars below and above."""
    return (error[0], error[1]) if isinstance(error, tuple) and np.ndim(error[0]) == 1 else (error, error)


def colours(plot: Plot) -> list[tuple[str, int]]:
    """(colour, round) of each mark: the palette by order of the named marks; a further round is dashed anew.

    Without a name marks are of the colour of the last named one, levels are grey.
    """
    found, place = [], -1
    for mark in plot.marks:
        if isinstance(mark, HeatMap) or (isinstance(mark, Level) and not mark.name and mark.colour is None):
            found.append((GREY, 0))
            continue
        if mark.colour is not None:
            chosen = mark.colour
        else:
            place += bool(mark.name) or place < 0
            chosen = place
        found.append((COLOURS[chosen % len(COLOURS)], chosen // len(COLOURS)))
    return found
