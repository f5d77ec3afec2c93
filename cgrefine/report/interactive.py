"""Plots as figures of plotly.js, and plotly.js itself for a page that needs no network."""

import base64
import functools
import gzip
import importlib.resources
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cgrefine.report import plot as described
from cgrefine.report.plot import Axis, Band, Bars, HeatMap, Histogram, Level, Line, Mark, Plot, Values

DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
DIGITS = 6
"""Significant digits of the numbers in a page."""
FEW_TICKS = 8
"""Span below which plotly.js would put ticks between whole numbers."""


@functools.cache
def library() -> str:
    """plotly.js of the installed plotly package: gzip, then base64.

    4.8 MB of script are 2.0 MB so; the page unpacks them itself.
    """
    script = importlib.resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, mtime=0)).decode()


def figure(plot: Plot) -> dict[str, Any]:
    """`data` and `layout` of plotly.js. Colours of text and grid are left to the page: it knows its theme."""
    traces: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    for mark, (colour, turn) in zip(plot.marks, described.colours(plot), strict=True):
        if isinstance(mark, Level):
            shapes.append(_level(mark, colour))
        else:
            traces += _traces(mark, plot, colour, turn)
    named = [m for m in plot.marks if not isinstance(m, HeatMap) and m.name]
    layout: dict[str, Any] = {
        "xaxis": _axis(plot.x, plot.marks),
        "yaxis": _axis(plot.y, ()),
        "shapes": shapes,
        "showlegend": bool(named),
        "barmode": "group",
    }
    if plot.square:
        layout["yaxis"] |= {"scaleanchor": "x", "constrain": "domain"}
        layout["xaxis"] |= {"constrain": "domain"}
    if plot.right is not None:
        # ticks of its own: by default they stand at those of the left axis, at whatever values these are
        layout["yaxis2"] = _axis(plot.right, ()) | {
            "overlaying": "y", "side": "right", "tickmode": "auto", "showgrid": False, "zeroline": False,
        }  # fmt: skip
    return {"data": traces, "layout": layout}


def _axis(axis: Axis, marks: Sequence[Mark]) -> dict[str, Any]:
    """marks: those whose x decide whether the ticks of a `whole` axis must be held to 1 apart."""
    found: dict[str, Any] = {"title": {"text": axis.label}}
    places = [v for mark in marks if isinstance(mark, Line) for v in mark.x if math.isfinite(v)]
    if axis.whole and places and max(places) - min(places) < FEW_TICKS:
        found["dtick"] = 1
    if axis.log:
        found |= {"type": "log", "exponentformat": "power"}
    if axis.names is not None:
        found |= {"tickmode": "array", "tickvals": list(range(len(axis.names))), "ticktext": list(axis.names)}
    if axis.limits is not None:
        found["range"] = [math.log10(v) if axis.log else v for v in axis.limits]
    return found


def _level(mark: Level, colour: str) -> dict[str, Any]:
    along, across = ("y", "x") if mark.vertical else ("x", "y")
    return {
        "type": "line", "name": mark.name, "showlegend": bool(mark.name),
        "line": {"color": colour, "dash": "dash", "width": 1.2},
        f"{along}ref": f"{along} domain", f"{along}0": 0, f"{along}1": 1,
        f"{across}ref": across, f"{across}0": mark.at, f"{across}1": mark.at,
    }  # fmt: skip


def _traces(mark: Mark, plot: Plot, colour: str, turn: int) -> list[dict[str, Any]]:
    match mark:
        case Line():
            return [_line(mark, colour, turn)]
        case Histogram():
            heights = np.append(np.asarray(mark.heights, float), np.nan)
            heights[-1] = heights[-2]
            style = {"color": colour, "width": 1.5, "shape": "hv", "dash": DASHES[turn % len(DASHES)]}
            return [_named(mark.name) | {"mode": "lines", "line": style, "x": numbers(mark.edges),
                                         "y": numbers(heights)}]  # fmt: skip
        case Band():
            x, low, high = (np.asarray(v, float) for v in (mark.x, mark.low, mark.high))
            known = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
            around = np.append(low[known], high[known][::-1])
            there_and_back = np.append(x[known], x[known][::-1])
            style = {"line": {"width": 0, "color": colour}, "fill": "toself", "fillcolor": f"{colour}40"}
            shown = {"mode": "lines", "hoverinfo": "skip", "x": numbers(there_and_back), "y": numbers(around)}
            return [_named(mark.name) | style | shown]
        case Bars():
            found = {"type": "bar", "name": mark.name, "showlegend": bool(mark.name),
                     "x": list(range(len(mark.heights))), "y": numbers(mark.heights),
                     "marker": {"color": colour}}  # fmt: skip
            return [found | _error(mark.error, None)]
        case HeatMap():
            return [_heat_map(mark)]
    raise TypeError(f"plot '{plot.caption}': cannot draw a {type(mark).__name__}")


def _named(name: str) -> dict[str, Any]:
    return {"type": "scatter", "name": name, "showlegend": bool(name)}


def _line(mark: Line, colour: str, turn: int) -> dict[str, Any]:
    mode = "+".join(m for m, on in (("lines", mark.line), ("markers", mark.points)) if on)
    dash = "dash" if mark.dashed else DASHES[turn % len(DASHES)]
    shape = "hv" if mark.step else "linear"
    symbol = SYMBOLS[described.COLOURS.index(colour) if colour in described.COLOURS else 0]
    return (
        _named(mark.name)
        | {"mode": mode, "line": {"color": colour, "width": 1.8, "dash": dash, "shape": shape}}
        | {"marker": {"color": colour, "size": 6, "symbol": symbol}}
        | {"x": numbers(mark.x), "y": numbers(mark.y)}
        | ({"yaxis": "y2"} if mark.right else {})
        | _error(mark.error, colour)
    )


def _error(error: Values | tuple[Values, Values] | None, colour: str | None) -> dict[str, Any]:
    """Of bars in the colour of the text, which the page fills in."""
    if error is None:
        return {}
    below, above = described.sides(error)
    found = {"type": "data", "array": numbers(above), "arrayminus": numbers(below), "symmetric": False}
    return {"error_y": found | {"width": 3, "thickness": 1.2} | ({} if colour is None else {"color": colour})}


def _heat_map(mark: HeatMap) -> dict[str, Any]:
    """Logarithmic: of the decimal logarithm, with a colour bar and a hover text in the values themselves."""
    values = np.asarray(mark.values, float).T
    scale, limits = described.colour_scale(mark), described.colour_limits(mark)
    found: dict[str, Any] = {
        "type": "heatmap", "x": numbers(mark.x_edges), "y": numbers(mark.y_edges),
        "colorscale": [[k / (len(scale) - 1), colour] for k, colour in enumerate(scale)],
        "colorbar": {"title": {"text": mark.label, "side": "right"}, "thickness": 14},
        "hovertemplate": f"%{{x}}, %{{y}}<br>{mark.label}: %{{z}}<extra></extra>",
    }  # fmt: skip
    if limits is not None:
        found["zmin"], found["zmax"] = np.log10(limits).tolist() if mark.log else limits
    if not mark.log:
        return found | {"z": [numbers(row) for row in values]}
    shown = np.full(values.shape, np.nan)
    np.log10(values, out=shown, where=values > 0)
    ticks = [] if limits is None else list(range(math.ceil(found["zmin"]), math.floor(found["zmax"]) + 1))
    found["colorbar"] |= {"tickvals": ticks, "ticktext": [f"10<sup>{t}</sup>" for t in ticks]}
    found["hovertemplate"] = found["hovertemplate"].replace("%{z}", "%{customdata}")
    return found | {"z": [numbers(row) for row in shown], "customdata": [numbers(row) for row in values]}


def numbers(values: Values) -> list[float | int | None]:
    """For JSON: DIGITS significant digits, None for what is not finite."""
    return [_number(v) for v in values]


def _number(value: Any) -> float | int | None:
    if isinstance(value, (int, np.integer)):
        return int(value)
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
