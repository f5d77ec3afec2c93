"""Plots: both drawings show what was described; colours that can be told apart."""

import importlib.resources
import math
from itertools import combinations

import numpy as np
import plotly.graph_objects
import pytest

from cgrefine.report import interactive, static
from cgrefine.report.plot import COLOURS, GREY, Axis, Bars, HeatMap, Histogram, Level, Line, Plot, colours
from tests.report.pages import (
    BESIDE,
    EDGES,
    PLOTS,
    densities,
    difference,
    energy_and_force,
    errors,
    surface,
    survival,
)


@pytest.mark.parametrize("make", (*PLOTS, *BESIDE), ids=lambda make: make.__name__)
def test_plotly_knows_every_property(make):
    """plotly's own schema refuses a property or value that plotly.js would pass over in silence."""
    found = interactive.figure(make())
    assert len(plotly.graph_objects.Figure(found).to_dict()["data"]) == len(found["data"])


def test_a_step_curve_with_its_band_and_error_bar():
    band, steps, end = interactive.figure(survival())["data"]
    assert steps["line"]["shape"] == "hv" and steps["y"] == [1.0, 0.9, 0.8, 0.7]
    assert band["x"] == [0.0, 10.0, 20.0, 20.0, 10.0, 0.0] and band["y"] == [0.9, 0.8, 0.6, 0.9, 1.0, 1.0]
    assert end["error_y"]["arrayminus"] == [0.2] and end["error_y"]["array"] == [0.1]
    (level,) = interactive.figure(survival())["layout"]["shapes"]
    assert (level["x0"], level["x1"], level["y0"], level["y1"]) == (25.0, 25.0, 0, 1)
    assert (level["xref"], level["yref"]) == ("x", "y domain")


def test_a_histogram_keeps_its_edges_and_gaps():
    whole, cut = interactive.figure(densities())["data"]
    assert whole["x"] == list(EDGES) and len(whole["y"]) == len(EDGES) and whole["y"][-1] == whole["y"][-2]
    assert cut["y"][0] is None
    axis = interactive.figure(densities())["layout"]["yaxis"]
    assert axis["type"] == "log" and axis["range"] == [-4.0, 1.0]


def test_a_heat_map_has_x_to_the_right():
    """plotly.js wants rows of z along y; a logarithmic one shows the values themselves on hovering."""
    plot = surface()
    values = np.zeros((8, 8))
    values[2, 5] = 1000.0
    mark = HeatMap(EDGES, EDGES, values, "n", log=True)
    (heat,) = interactive.figure(Plot("c", plot.x, plot.y, [mark]))["data"]
    z = np.array(heat["z"], float)
    assert z[5, 2] == 3.0 and np.isnan(np.delete(z.ravel(), 5 * 8 + 2)).all()
    assert heat["customdata"][5][2] == 1000.0
    linear = interactive.figure(Plot("c", plot.x, plot.y, [HeatMap(EDGES, EDGES, values, "n")]))["data"][0]
    assert linear["z"][5][2] == 1000.0 and linear["z"][0][0] == 0.0


def test_colours_of_a_difference_are_about_zero():
    """The largest value is 10, the lowest -4: both drawings run from -10 to 10, with white in the middle."""
    (heat,) = interactive.figure(difference())["data"]
    assert (heat["zmin"], heat["zmax"]) == (-10.0, 10.0) and heat["colorscale"][3] == [0.5, "#F7F7F7"]
    mesh = static.figure(difference()).axes[0].collections[0]
    assert mesh.get_clim() == (-10.0, 10.0)
    assert np.asarray(mesh.cmap(0.5))[:3] == pytest.approx(0xF7 / 255, abs=0.01)


def test_given_limits_hold_for_both_drawings():
    """Also on a logarithmic scale, where plotly.js draws the logarithm."""
    for log, expected in ((False, (1.0, 100.0)), (True, (0.0, 2.0))):
        mark = HeatMap(EDGES, EDGES, np.full((8, 8), 5.0), "n", log=log, limits=(1.0, 100.0))
        plot = Plot("c", Axis("x"), Axis("y"), [mark])
        (heat,) = interactive.figure(plot)["data"]
        assert (heat["zmin"], heat["zmax"]) == pytest.approx(expected)
        assert static.figure(plot).axes[0].collections[0].get_clim() == (1.0, 100.0)


def test_a_force_has_its_axis_to_the_right():
    found = interactive.figure(energy_and_force())
    energy, force = found["data"]
    assert "yaxis" not in energy and force["yaxis"] == "y2"
    assert found["layout"]["yaxis2"]["range"] == [-900.0, 900.0]
    left, right = static.figure(energy_and_force()).axes
    assert right.get_ylim() == (-900.0, 900.0) and right.get_ylabel() == "force, kT/Å"
    assert len(left.containers) == len(right.containers) == 1
    lonely = [Line([0], [0], "force", right=True)]
    with pytest.raises(ValueError, match="'force' needs an axis to the right"):
        Plot("c", Axis("x"), Axis("y"), lonely)


def test_columns_stand_side_by_side_under_their_captions():
    fig = static.figure(densities(), errors(), survival(), columns=2)
    first, second, third = (axes.get_position() for axes in fig.axes)
    assert first.y0 == second.y0 > third.y1 and second.x0 > first.x1 and third.x0 == first.x0
    assert [axes.get_title() for axes in fig.axes] == ["Densities", "RMSE", "Surviving fraction"]


def test_both_drawings_have_the_same_data():
    axes = static.figure(survival()).axes[0]
    drawn = {container.get_label(): container[0] for container in axes.containers}
    steps = interactive.figure(survival())["data"][1]
    assert np.asarray(drawn[steps["name"]].get_xdata()).tolist() == steps["x"]
    assert np.asarray(drawn[steps["name"]].get_ydata()).tolist() == steps["y"]
    assert axes.get_xlabel() == "time, ps" and axes.get_ylim() == (-0.02, 1.05)
    bars = static.figure(errors()).axes[0]
    heights = [[patch.get_height() for patch in group] for group in bars.containers if len(group) == 2
               and hasattr(group[0], "get_height")]  # fmt: skip
    assert heights == [trace["y"] for trace in interactive.figure(errors())["data"]]
    assert [tick.get_text() for tick in bars.get_xticklabels()] == ["first", "last"]


def test_panels_stand_below_each_other():
    fig = static.figure(errors(), densities())
    assert len(fig.axes) == 2 and fig.axes[1].get_yscale() == "log"


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (Line([1, 2], [1]), "has 1 y, needs 2"),
        (Line([1, 2], [1, 2], error=[1]), "1 error, needs 2"),
        (Histogram([0, 1], [1, 2]), "2 heights, needs 1"),
        (Bars([1, 2, 3]), "3 heights, needs 1"),
        (HeatMap([0, 1, 2], [0, 1], np.zeros((1, 1)), "n"), "1 values along x, needs 2"),
    ],
)
def test_lengths_belong_together(mark, message):
    with pytest.raises(ValueError, match=message):
        Plot("c", Axis("x", names=["one"]), Axis("y"), [mark])


def test_numbers_are_short_and_never_nan():
    assert interactive.numbers([1 / 3, 2, np.int64(7), float("nan"), -float("inf"), np.float32(0.1)]) == [
        0.333333, 2, 7, None, None, 0.1,
    ]  # fmt: skip


def test_whole_ticks_of_a_short_training():
    def axis(last):
        return interactive.figure(Plot("c", Axis("epoch", whole=True), Axis("y"), [Line([0, last], [0, 1])]))

    assert axis(3)["layout"]["xaxis"]["dtick"] == 1 and "dtick" not in axis(50)["layout"]["xaxis"]


def test_named_marks_take_the_colours_in_turn():
    marks = [Line([0], [0], str(k)) for k in range(7)]
    plot = Plot("c", Axis("x"), Axis("y"), [*marks, Line([0], [0]), Level(0.0), Line([0], [0], colour=1)])
    found = colours(plot)
    assert [c for c, _ in found[:6]] == list(COLOURS) and found[6] == (COLOURS[0], 1)
    assert found[7] == found[6] and found[8] == (GREY, 0) and found[9] == (COLOURS[1], 0)
    first, seventh = (interactive.figure(plot)["data"][k]["line"]["dash"] for k in (0, 6))
    assert first != seventh


def linear(colour: str) -> np.ndarray:
    """Linear RGB of #rrggbb: IEC 61966-2-1."""
    c = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
SEEN = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
"""Linear RGB as seen, at severity 1: Machado, Oliveira & Fernandes, IEEE TVCG 15, 1291 (2009)."""


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* of linear RGB, white of D65."""
    relative = (TO_XYZ @ np.clip(rgb, 0, 1)) / TO_XYZ.sum(1)
    f = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen", SEEN)
def test_colours_are_told_apart(seen):
    for one, other in combinations(COLOURS, 2):
        difference = np.linalg.norm(lab(SEEN[seen] @ linear(one)) - lab(SEEN[seen] @ linear(other)))
        assert difference > 25, f"{one} and {other}"


@pytest.mark.parametrize("background", ["#ffffff", "#16181c"])
def test_colours_stand_out_of_either_page(background):
    """At least 3:1: WCAG 2.2, 1.4.11, by relative luminance. The backgrounds are those of page.css."""
    css = importlib.resources.files("cgrefine.report").joinpath("page.css").read_text()
    assert f"--page: {background};" in css
    for colour in (*COLOURS, GREY):
        low, high = sorted((TO_XYZ[1] @ linear(c) + 0.05) for c in (colour, background))
        assert high / low >= 3 and math.isfinite(high), colour
