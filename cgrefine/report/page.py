"""Self-contained HTML pages: one template, figures inlined as PNG, no script, no network."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import cgrefine


@dataclass(frozen=True)
class Table:
    """A table: column names, and rows of numbers or text (floats are shown with four digits)."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Section:
    """A headed part of a page: text, a table, figures (data URIs from `figure`)."""

    heading: str
    text: str = ""
    table: Table | None = None
    figures: Sequence[str] = ()


def png(fig: Figure) -> bytes:
    """A matplotlib Figure as PNG bytes, 110 dpi."""
    buffer = io.BytesIO()
    FigureCanvasAgg(fig).print_figure(buffer, format="png", dpi=110)
    return buffer.getvalue()


def figure(fig: Figure) -> str:
    """A matplotlib Figure as a data URI for `Section.figures`."""
    return data_uri(png(fig))


def data_uri(image: bytes) -> str:
    """PNG bytes as a data URI."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def save_figure(path: Path, fig: Figure) -> None:
    """Write a figure as a PNG file."""
    path.write_bytes(png(fig))


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write one HTML page that needs nothing beside itself; text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cgrefine.report", "."), autoescape=True, trim_blocks=True
    )
    environment.filters["cell"] = lambda v: f"{v:.4g}" if isinstance(v, float) else str(v)
    page = environment.get_template("page.html.j2").render(
        title=title, sections=sections, version=cgrefine.__version__
    )
    path.write_text(page)
