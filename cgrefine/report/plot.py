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
SCALE = (
    "#440154", "#482878", "#3E4A89", "#31688E", "#26828E",
    "#1F9E89", "#35B779", "#6DCD59", "#B4DE2C", "#FDE725",
)  # fmt: skip
"""Of heat maps: ten colours of viridis, lightness rising throughout (van der Walt & Smith, 2015)."""
SCALE_ABOUT_ZERO = ("#2166AC", "#67A9CF", "#D1E5F0", "#F7F7F7", "#FDDBC7", "#EF8A62", "#B2182B")
"""Of differences, zero in the middle: RdBu of Harrower & Brewer, Cartogr. J. 40, 27 (2003), red above."""


@dataclass(frozen=True)
class Axis:
    """label: what and in which unit. limits: (lowest, highest) shown, in data units; None: as the marks need.

    whole: ticks at whole numbers only, as of epochs. names: the places 0, 1, … are categories of these names,
    not numbers.
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
    compared with. colour: index in COLOURS; by default the place among the named marks of the plot. right: y
    is that of `Plot.right`.
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
    right: bool = False


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

    NaN is blank, and so is 0 on a logarithmic scale. about_zero: of differences, coloured by sign, with zero
    in the middle. limits: values of the first and the last colour, also of what lies beyond; None: as found.
    """

    x_edges: Values
    y_edges: Values
    values: np.ndarray
    label: str
    log: bool = False
    about_zero: bool = False
    limits: tuple[float, float] | None = None


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
    """One pair of axes. caption: what is seen, above it. square: one unit is as long in x as in y.

    right: a second axis of y, of those lines that say so.
    """

    caption: str
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    square: bool = False
    right: Axis | None = None

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
            if mark.right and plot.right is None:
                raise ValueError(f"plot '{plot.caption}': Line '{mark.name}' needs an axis to the right")
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


def colour_limits(mark: HeatMap) -> tuple[float, float] | None:
    """Values of the first and last colour: those given, or found, alike on both sides of zero `about_zero`.

    None without a value.
    """
    if mark.limits is not None:
        return mark.limits
    values = np.asarray(mark.values, float)
    shown = values[np.isfinite(values) & ((values > 0) | (not mark.log))]
    if not shown.size:
        return None
    if mark.about_zero:
        reach = float(np.abs(shown).max())
        return (-reach, reach) if reach > 0 else (-1.0, 1.0)
    return float(shown.min()), float(shown.max())


def colour_scale(mark: HeatMap) -> tuple[str, ...]:
    """Colours at equal steps, the lowest first."""
    return SCALE_ABOUT_ZERO if mark.about_zero else SCALE


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
