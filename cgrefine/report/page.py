"""Self-contained HTML pages: one template, everything inlined, no network."""

import base64
import functools
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import cgrefine
from cgrefine.report import interactive, static
from cgrefine.report.plot import Plot

NUMBER = re.compile(r"[<>≤≥]?\s*([-−+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-−+]?\d+)?)(?![^\s%])")
"""A number that opens a cell, alone or before a blank: 9.498 ± 0.12, 300 K, −3 %; not 1abcA00."""
NOTHING = {"", "–", "-", "nan", "None"}
"""Cells without a value: below all others, however a column is sorted."""


@dataclass(frozen=True)
class Table:
    """A table: column names, and rows of numbers or text (floats are shown with four digits)."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Section:
    """A headed part of a page: text, a table, plots.

    columns: of the plots, on a wide screen; more than 1 for many that are to be seen side by side.
    """

    heading: str
    text: str = ""
    table: Table | None = None
    plots: Sequence[Plot] = ()
    columns: int = 1


def png(fig: Figure) -> bytes:
    """A matplotlib Figure as PNG bytes, 110 dpi."""
    buffer = io.BytesIO()
    FigureCanvasAgg(fig).print_figure(buffer, format="png", dpi=110)
    return buffer.getvalue()


def data_uri(image: bytes) -> str:
    """PNG bytes as a data URI."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def save_plots(path: Path, *plots: Plot, columns: int = 1) -> None:
    """Write plots as one PNG file, below each other or in columns."""
    path.write_bytes(_drawn(*plots, columns=columns))


@functools.lru_cache(maxsize=128)
def _drawn(*plots: Plot, columns: int = 1) -> bytes:
    """PNG; kept because the file and the page show the same."""
    return png(static.figure(*plots, columns=columns))


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write one HTML page that needs nothing beside itself; text is escaped.

    Plots are drawn by plotly.js, inlined once; a PNG of each, or of all that stand in columns together, is
    there until then, without script and on paper. A page without plots has no script but the sorter of its
    tables, if any.
    """
    page = _environment().get_template("page.html.j2").render(
        title=title,
        sections=sections,
        version=cgrefine.__version__,
        plots=any(section.plots for section in sections),
        tables=any(section.table for section in sections),
    )  # fmt: skip
    path.write_text(page, encoding="utf-8")


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("cgrefine.report", ".")
    found = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {
        "cell": lambda v: f"{v:.4g}" if isinstance(v, float) else str(v),
        "sort_value": sort_value,
        "numeric": numeric,
        "image": lambda plot: data_uri(_drawn(plot, columns=1)),
        "images": lambda section: data_uri(_drawn(*section.plots, columns=section.columns)),
        "plotly": lambda plot: in_script(interactive.figure(plot)),
    }
    found.globals |= {
        "library": interactive.library,
        "source": lambda name: Markup(loader.get_source(found, name)[0]),
    }
    return found


def sort_value(cell: object) -> float | None:
    """The number by which a cell is sorted: itself, or the one that its text opens with; None for none."""
    if isinstance(cell, bool):
        return None
    text = str(cell).strip()
    if text in ("inf", "-inf"):
        return float(text)
    found = NUMBER.match(text)
    if found is None:
        return None
    return float(found.group(1).replace("−", "-"))


def numeric(table: Table) -> list[bool]:
    """Of each column: whether every cell with a value has a number, and there is one."""
    found = []
    for k in range(len(table.columns)):
        cells = [row[k] for row in table.rows if str(row[k]).strip() not in NOTHING]
        found.append(bool(cells) and all(sort_value(cell) is not None for cell in cells))
    return found


def in_script(content: Any) -> Markup:
    """JSON that no text in it can end the script element of."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", r"\u003c").replace("\u2028", r"\u2028").replace("\u2029", r"\u2029"))
