"""The structure of a page: nesting, no outside, one plotly.js, data in each plot, cells that sort."""

import base64
import gzip
import re

import pytest

from cgrefine.report.page import Section, Table, numeric, sort_value, write_page
from tests.report.pages import BESIDE, COLUMNS, PLOTS, RISK, ROWS, Reader, write


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write(tmp_path_factory.mktemp("page") / "report.html").read_text()


@pytest.fixture(scope="module")
def page(text):
    return Reader(text)


def test_nothing_is_fetched(page):
    """No element names an address outside the file, and the policy forbids what a script could."""
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), f"<{tag} {name}={value[:60]}>"
    (policy,) = (a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and "connect-src" not in rules
    assert not any("http" in rule or "*" in rule for rule in rules.values())
    assert not any("src" in attributes for attributes, _ in page.scripts)


def test_one_library_and_data_in_each_plot(page):
    packed = [script for a, script in page.scripts if a.get("id") == "plotly"]
    assert len(packed) == 1
    assert b"plotly.js v" in gzip.decompress(base64.b64decode(packed[0]))[:200]
    figures = page.figures()
    assert len(figures) == len(PLOTS) + len(BESIDE) == sum(tag == "figure" for tag, _ in page.elements)
    for found in figures:
        assert found["data"] and found["layout"]["xaxis"]["title"]["text"]
        for trace in found["data"]:
            assert trace.get("z") or (len(trace["x"]) == len(trace["y"]) > 0)


def test_each_plot_has_an_image_for_paper_and_for_no_script(page):
    """Those in columns have one together."""
    images = [a for tag, a in page.elements if tag == "img"]
    assert len(images) == len(PLOTS) + 1
    for image in images:
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
        assert image["alt"]


def test_names_stay_text(page, text):
    """In a cell, a sentence and the JSON of a plot: no image of example.org, no script that ends early."""
    assert '<img src="https' not in text
    assert page.figures()[0]["data"][1]["name"] == RISK


def test_scripts_are_only_what_the_page_needs(tmp_path):
    without_plots = Reader(write(tmp_path / "table.html", plots=False).read_text())
    ((_, sorter),) = without_plots.scripts
    assert "aria-sort" in sorter and "Plotly" not in sorter
    write_page(tmp_path / "text.html", "Text", [Section("One", "Nothing else.")])
    plain = (tmp_path / "text.html").read_text()
    assert not Reader(plain).scripts and len(plain) < 6000


def test_contents_link_to_the_sections(page):
    links = [a["href"].removeprefix("#") for tag, a in page.elements if tag == "a"]
    assert links == [a["id"] for tag, a in page.elements if tag == "section"] and len(links) == 4


def test_numeric_cells_carry_their_number(text):
    """Full precision, not the four digits shown; no number in the cells of a column with text."""
    cells = re.findall(r'<td class="number"(?: data-value="([^"]*)")?>', text)
    expected = [(3, 12.5, 0.31), (1, None, None), (2, -1250.0, -0.5), (10, 3.0e-7, 12.0)]
    found = [tuple(float(c) if c else None for c in cells[k : k + 4]) for k in range(0, len(cells), 4)]
    assert found == [(*row, 0.1234567 * k) for k, row in enumerate(expected)]
    assert numeric(Table(COLUMNS[:5], ROWS)) == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        (3, 3.0), (2.5, 2.5), ("9.498 ± 0.12", 9.498), ("−1.5e-3", -1.5e-3), ("300 K", 300.0), ("12 %", 12.0),
        ("12%", 12.0), ("> 4", 4.0), ("-inf", -float("inf")), ("1abcA00", None), ("N-terminal 1", None),
        ("–", None), ("", None), (True, None), (float("nan"), None), ("3-4", None), (None, None),
    ],
)  # fmt: skip
def test_the_number_of_a_cell(cell, number):
    assert sort_value(cell) == number
