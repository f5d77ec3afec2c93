"""Plots as matplotlib figures: the PNG files of a run, and what a page shows without script and on paper."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cgrefine.report import plot as described
from cgrefine.report.plot import Axis, Band, Bars, HeatMap, Histogram, Level, Line, Mark, Plot

DASHES = ("-", "--", ":", "-.")
MARKERS = "osD^Xp"
MANY = 3
"""Names in a legend from which on it stands beside the axes."""


PANEL = (3.4, 2.7)
"""Width and height of one of several columns, inches."""

TITLE = 46
"""Letters of a line above such a panel."""


def figure(*plots: Plot, columns: int = 1) -> Figure:
    """One panel each, below each other, captions left to the page; or in columns, under their captions."""
    if columns > 1:
        return _grid(plots, columns)
    n_names = max(len(plot.x.names or ()) for plot in plots)
    tall = sum(4.8 if plot.square else 3.6 for plot in plots) if len(plots) == 1 else 2.6 * len(plots)
    fig = Figure(figsize=(max(7.0, 0.42 * n_names + 3.0), tall), layout="constrained")
    for axes, plot in zip(np.ravel(fig.subplots(len(plots), 1)), plots, strict=True):
        _draw(axes, plot)
    return fig


def _grid(plots: Sequence[Plot], columns: int) -> Figure:
    """Small panels, row by row. Fixed margins: to have them computed takes longer than to draw all of it."""
    columns = min(columns, len(plots))
    rows = -(-len(plots) // columns)
    width, height = PANEL[0] * columns, PANEL[1] * rows
    fig = Figure(figsize=(width, height))
    margins = {"left": 0.75 / width, "right": 1 - 0.6 / width}
    fig.subplots_adjust(**margins, bottom=0.55 / height, top=1 - 0.35 / height, wspace=0.55, hspace=0.6)
    known: set[str] = set()
    for k, plot in enumerate(plots):
        axes = fig.add_subplot(rows, columns, k + 1)
        names = {mark.name for mark in plot.marks if not isinstance(mark, HeatMap) and mark.name}
        _draw(axes, plot, small=True, legend=not names <= known)
        axes.set_title("\n".join(textwrap.wrap(plot.caption, TITLE)), fontsize=8)
        known |= names
    for axes in fig.axes:
        axes.tick_params(labelsize=7)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
    return fig


def _draw(axes: Axes, plot: Plot, small: bool = False, legend: bool = True) -> None:
    """small: one of several columns. legend: whether names are explained here."""
    bars = [mark for mark in plot.marks if isinstance(mark, Bars)]
    right = None if plot.right is None else axes.twinx()
    for mark, (colour, turn) in zip(plot.marks, described.colours(plot), strict=True):
        if isinstance(mark, Bars):
            _bars(axes, mark, colour, bars.index(mark), len(bars))
        else:
            place = right if right is not None and isinstance(mark, Line) and mark.right else axes
            _mark(place, mark, colour, DASHES[turn % len(DASHES)])
    axes.set(xlabel=plot.x.label, ylabel=plot.y.label)
    if right is not None and plot.right is not None:
        right.set(ylabel=plot.right.label)
        _scale(right, plot.right, "y")
    if plot.square:
        axes.set_aspect("equal")
    _scale(axes, plot.x, "x")
    _scale(axes, plot.y, "y")
    if legend:
        _legend(axes, right, small, bool(bars))


def _legend(axes: Axes, right: Axes | None, small: bool, bars: bool) -> None:
    """Inside the axes where it fits, beside them otherwise."""
    handles, names = axes.get_legend_handles_labels()
    if right is not None:
        more = right.get_legend_handles_labels()
        handles, names = handles + more[0], names + more[1]
    if small and names:
        axes.legend(handles, names, fontsize=6)
    elif len(names) > MANY or (names and bars):
        axes.legend(handles, names, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    elif names:
        axes.legend(handles, names, fontsize="small")


def _scale(axes: Axes, axis: Axis, name: str) -> None:
    if axis.log:
        axes.set(**{f"{name}scale": "log"})
    if axis.limits is not None:
        axes.set(**{f"{name}lim": axis.limits})
    if axis.whole:
        getattr(axes, f"{name}axis").set_major_locator(MaxNLocator(integer=True))
    if axis.names is not None:
        turned = 45 if len(axis.names) > 6 else 0
        place = axes.set_xticks if name == "x" else axes.set_yticks
        place(range(len(axis.names)), list(axis.names), rotation=turned if name == "x" else 0)


def _mark(axes: Axes, mark: Mark, colour: str, dash: str) -> None:
    label = getattr(mark, "name", "") or None
    match mark:
        case Line():
            _line(axes, mark, colour, dash)
        case Histogram():
            axes.stairs(np.asarray(mark.heights, float), np.asarray(mark.edges, float), color=colour,
                        linestyle=dash, label=label, baseline=None)  # fmt: skip
        case Band():
            x, low, high = (np.asarray(v, float) for v in (mark.x, mark.low, mark.high))
            axes.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0, label=label)
        case HeatMap():
            _heat_map(axes, mark)
        case Level():
            draw = axes.axvline if mark.vertical else axes.axhline
            draw(mark.at, color=colour, linestyle="--", linewidth=1, label=label)
        case _:
            raise TypeError(f"cannot draw a {type(mark).__name__}")


def _line(axes: Axes, mark: Line, colour: str, dash: str) -> None:
    x, y = np.asarray(mark.x, float), np.asarray(mark.y, float)
    symbol = MARKERS[described.COLOURS.index(colour) if colour in described.COLOURS else 0]
    error = None
    if mark.error is not None:
        error = np.array([np.asarray(side, float) for side in described.sides(mark.error)])
    axes.errorbar(
        x, y, error, color=colour, label=mark.name or None, capsize=2, markersize=4, linewidth=1.3,
        linestyle=("--" if mark.dashed else dash) if mark.line else "none",
        marker=symbol if mark.points else "none",
        drawstyle="steps-post" if mark.step else "default",
    )  # fmt: skip


def _bars(axes: Axes, mark: Bars, colour: str, place: int, of: int) -> None:
    heights = np.asarray(mark.heights, float)
    error = None if mark.error is None else np.asarray(mark.error, float)
    at = np.arange(len(heights)) + 0.8 * ((place + 0.5) / of - 0.5)
    axes.bar(at, heights, 0.76 / of, yerr=error, capsize=2, color=colour, label=mark.name or None)


def _heat_map(axes: Axes, mark: HeatMap) -> None:
    values = np.asarray(mark.values, float)
    shown = np.where(np.isfinite(values) & ((values > 0) | (not mark.log)), values, np.nan)
    limits = described.colour_limits(mark) or (0.0, 1.0)
    norm = LogNorm(*limits) if mark.log and np.isfinite(shown).any() else Normalize(*limits)
    mesh = axes.pcolormesh(
        np.asarray(mark.x_edges, float), np.asarray(mark.y_edges, float), shown.T, norm=norm,
        cmap=LinearSegmentedColormap.from_list("scale", described.colour_scale(mark)), rasterized=True,
    )  # fmt: skip
    assert axes.figure is not None
    axes.figure.colorbar(mesh, ax=axes, label=mark.label)
