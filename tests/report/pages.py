"""A page such as `audit` writes, with every kind of mark, and a reader of pages."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects

from cgrefine.report.page import Section, Table, write_page
from cgrefine.report.plot import Axis, Band, Bars, HeatMap, Histogram, Level, Line, Plot

RISK = 'mini </script><img src="https://example.org/x.png"> & co'
"""A name that would leave its place, and reach for the network, if it were not escaped."""
ROWS = (
    ("chain10", 3, 12.5, "0.31 ± 0.02", "bond 3-4 stretched"),
    ("chain9", 1, float("nan"), "–", RISK),
    ("chain2", 2, -1250.0, "−0.5 ± 0.1", "two beads overlap"),
    ("chain1", 10, 3.0e-7, "12", "bond 7-8 stretched"),
)
COLUMNS = ("domain", "replica", "failed at, ps", "drift, kcal/mol/ns", "reason", "a column", "another one")
EDGES = np.linspace(-4.0, 4.0, 9)


def survival() -> Plot:
    times = [0.0, 10.0, 20.0, 30.0]
    return Plot(
        "Surviving fraction",
        Axis("time, ps"),
        Axis("surviving fraction", limits=(-0.02, 1.05)),
        [
            Band(times, [0.9, 0.8, 0.6, 0.5], [1.0, 1.0, 0.9, float("nan")], "95 % interval"),
            Line(times, [1.0, 0.9, 0.8, 0.7], RISK, step=True),
            Line([30.0], [0.7], error=([0.2], [0.1]), line=False, points=True),
            Level(25.0, "median", vertical=True),
        ],
    )


def densities() -> Plot:
    heights = np.exp(-0.5 * EDGES[:-1] ** 2)
    cut = np.where(heights > 0.1, heights, np.nan)
    marks = [Histogram(EDGES, heights, "reference"), Histogram(EDGES, cut)]
    return Plot("Densities", Axis("Rg, Å"), Axis("density, 1/Å", log=True, limits=(1e-4, 10.0)), marks)


def surface() -> Plot:
    counts = np.outer(np.arange(8), np.arange(8))
    return Plot(
        "Counts", Axis("Rg, Å"), Axis("Q, Å"),
        [HeatMap(EDGES, EDGES, counts, "frames", log=True), Line([-4, 4], [-4, 4], "equal", dashed=True)],
        square=True,
    )  # fmt: skip


def errors() -> Plot:
    marks = [Bars([1.0, 2.0], "priors", [0.1, float("nan")]), Bars([0.5, 1.5], "whole")]
    return Plot("RMSE", Axis("position", names=["first", "last"]), Axis("RMSE, kcal/mol/Å"), marks)


def difference() -> Plot:
    values = np.subtract.outer(np.arange(8.0), np.arange(8.0)) + 3.0
    heat = HeatMap(EDGES, EDGES, values, "ΔF, kcal/mol", about_zero=True)
    return Plot("Difference", Axis("Rg, Å"), Axis("Q"), [heat])


def energy_and_force() -> Plot:
    marks = [Line(EDGES, EDGES**2, "energy"), Line(EDGES, -200.0 * EDGES, "force", right=True)]
    right = Axis("force, kT/Å", limits=(-900.0, 900.0))
    return Plot("Energy", Axis("r, Å"), Axis("energy, kT"), marks, right=right)


PLOTS = (survival, densities, surface, errors)
BESIDE = (difference, energy_and_force)
"""Those in columns."""


def write(path: Path, plots: bool = True) -> Path:
    """A page with a wide table and, if asked, plots."""
    rows = [(*row, 0.1234567 * k, "text " * k) for k, row in enumerate(ROWS)]
    drawn = [make() for make in PLOTS] if plots else []
    sections = [
        Section("Verdict", f"Unstable: {RISK}.", plots=drawn[:2]),
        Section("First failure of each replica", "", Table(COLUMNS, rows)),
        Section("More", "Text.", plots=drawn[2:]),
        Section("Beside each other", "", plots=[make() for make in BESIDE] if plots else [], columns=2),
    ]
    write_page(path, "Stability audit", sections)
    return path


VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Elements, their attributes and script texts of a page; AssertionError for one that does not nest."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing of its own"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))

    def figures(self) -> list[dict]:
        """What the page hands to plotly.js."""
        return [json.loads(text) for a, text in self.scripts if a.get("type") == "application/json"]


def valid_figures(page: Path) -> list[dict]:
    """Figures of a page, each of which plotly's own schema accepts; none of them is an image alone."""
    text = page.read_text()
    found = Reader(text).figures()
    assert found and text.count('id="plotly"') == 1
    for figure in found:
        plotly.graph_objects.Figure(figure)
    return found
