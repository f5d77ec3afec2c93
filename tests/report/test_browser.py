"""Pages opened from disk in a headless Chromium: as an analyst at a desk, and on a telephone, sees them."""

import pytest

from cgrefine.cli.audit_plots import survival_plots
from cgrefine.cli.audit_verdict import judged
from cgrefine.cli.replicas import Outcome
from cgrefine.report.page import Section, write_page
from cgrefine.status import REASONS, Status
from tests import browser
from tests.report.pages import BESIDE, PLOTS, write

EXECUTABLE = browser.executable()
pytestmark = pytest.mark.skipif(
    EXECUTABLE is None, reason="no browser: `make browser`, or CGREFINE_BROWSER=/path/to/chromium"
)
DRAWN = f"document.querySelectorAll('figure.drawn').length === {len(PLOTS) + len(BESIDE)}"
HEADINGS = "[...document.querySelectorAll('thead th')]"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    assert EXECUTABLE is not None
    with browser.opened(EXECUTABLE, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return write(tmp_path_factory.mktemp("page") / "report.html").as_uri()


@pytest.fixture(scope="module", params=[(1280, 800, False), (390, 844, True)], ids=["desk", "phone"])
def page(tab, url, request):
    """The page with its plots drawn, dark on the phone."""
    width, height, phone = request.param
    tab.open(url, width, height, phone, dark=phone)
    tab.wait_for(DRAWN)
    return tab, width


def test_it_opens_without_an_error_or_a_request(page, url):
    tab, _ = page
    assert tab.errors == []
    assert [r for r in tab.requests if not r.startswith(("data:", "blob:"))] == [url]


def test_every_plot_shows_its_data(page):
    """Drawn marks inside the axes, none of the images that stand in for them, all within the window."""
    tab, width = page
    shown = tab.evaluate("""[...document.querySelectorAll('figure.plot')].map((figure) => {
      const inked = (e) => {
        const box = e.getBoundingClientRect(), style = getComputedStyle(e);
        const outlined = style.stroke !== 'none' && style.strokeWidth !== '0px';
        return (box.width > 1 || box.height > 1) && (outlined || style.fill !== 'none');
      };
      const count = (s) => [...figure.querySelectorAll(s)].filter(inked).length;
      const plot = figure.querySelector('.main-svg').getBoundingClientRect();
      return {
        lines: count('.scatterlayer .js-line'), fills: count('.scatterlayer .js-fill'),
        points: count('.scatterlayer path.point'), bars: count('.barlayer .point path'),
        errors: count('.errorbar path, path.yerror'), heat: count('.heatmaplayer image'),
        levels: count('.shapelayer path'), images: count(':scope > img'), left: plot.left, right: plot.right,
        ticks: figure.querySelectorAll('.xtick').length, titles: count('.xtitle, .ytitle'),
      }})""")
    survival, densities, surface, errors, difference, forces = shown
    assert survival["lines"] == 1 and survival["fills"] == 1 and survival["levels"] == 1
    assert survival["points"] == 1 and survival["errors"] == 1
    assert densities["lines"] == 2
    assert surface["heat"] == 1 and surface["lines"] == 1
    assert errors["bars"] == 4 and errors["errors"] == 1
    assert difference["heat"] == 1 and forces["lines"] == 2
    right = tab.evaluate("[...document.querySelectorAll('.y2tick')].map(e => e.textContent)")
    assert "0" in right and "500" in right, "round numbers of its own, not those beside the left ticks"
    beside = forces["left"] > difference["right"]
    assert beside == (width > 1000), "in columns at the desk, below each other on the phone"
    for plot in shown:
        assert plot["images"] == 0 and plot["ticks"] >= 2 and plot["titles"] == 2
        assert plot["left"] >= 0 and plot["right"] <= width


def test_nothing_is_wider_than_the_window(page):
    """But the table inside its box, which scrolls."""
    tab, width = page
    assert tab.evaluate("Math.max(document.documentElement.scrollWidth, innerWidth)") == width
    inner, box = tab.evaluate("(b => [b.scrollWidth, b.clientWidth])(document.querySelector('.scroll'))")
    assert box <= width and (inner > box or width > 1000)


def column(tab, k):
    return tab.evaluate(f"[...document.querySelectorAll('tbody tr')].map(r => r.cells[{k}].textContent)")


def sorts(tab):
    return tab.evaluate(f"{HEADINGS}.map(h => h.getAttribute('aria-sort'))")


def test_a_click_sorts_numbers_as_numbers(page):
    """Up, down, and back to the order of the file; the cell without a number stays last."""
    tab, _ = page
    tab.click("th:nth-child(3) button")
    assert column(tab, 2) == ["-1250", "3e-07", "12.5", "nan"]
    assert sorts(tab) == ["none", "none", "ascending", *["none"] * 4]
    tab.click("th:nth-child(3) button")
    assert column(tab, 2) == ["12.5", "3e-07", "-1250", "nan"] and sorts(tab)[2] == "descending"
    tab.click("th:nth-child(3) button")
    assert column(tab, 2) == ["12.5", "nan", "-1250", "3e-07"] and sorts(tab)[2] == "none"
    tab.click("th:nth-child(4) button")
    assert column(tab, 3) == ["−0.5 ± 0.1", "0.31 ± 0.02", "12", "–"]


def test_the_keyboard_sorts_names(page):
    tab, _ = page
    tab.evaluate("document.querySelector('.scroll').focus()")
    tab.press("Tab", 9)
    tab.press("Enter", 13, "\r")
    assert column(tab, 0) == ["chain1", "chain2", "chain9", "chain10"]
    assert sorts(tab)[0] == "ascending" and tab.evaluate("document.activeElement.textContent") == "domain"


def test_text_follows_the_theme(tab, url):
    """Of the plots too, when the theme changes while the page is open."""
    found = {}
    for theme in ("light", "dark", "light"):
        tab.open(url, 800, 600, dark=theme == "dark") if theme not in found else tab.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}]
        )
        tab.wait_for(DRAWN)
        fill = "getComputedStyle(document.querySelector('.xtitle')).fill"
        tab.wait_for(f"{fill} === getComputedStyle(document.body).color")
        found[theme] = tab.evaluate(fill)
    assert found["light"] != found["dark"]


def test_paper_gets_the_images(tab, url):
    tab.open(url, 800, 600)
    tab.wait_for(DRAWN)
    tab.call("Emulation.setEmulatedMedia", media="print")
    shown = "[...document.querySelectorAll('figure > {0}, .plots > {0}')]"
    shown += ".filter(e => e.offsetHeight > 50).length"
    try:
        assert tab.evaluate(shown.format("img")) == len(PLOTS) + 1 and tab.evaluate(shown.format("div")) == 0
    finally:
        tab.call("Emulation.setEmulatedMedia", media="")


def test_an_outside_address_would_be_seen(tab, url, tmp_path):
    """The page's policy stops it, and the console says so: what the first test looks for can happen."""
    page = write(tmp_path / "report.html", plots=False)
    page.write_text(page.read_text().replace("<h1>", '<img src="https://example.org/x.png"><h1>'))
    tab.open(page.as_uri(), 800, 600)
    tab.wait_for("document.readyState === 'complete'")
    assert any("Content Security Policy" in error for error in tab.errors), tab.errors
    page.write_text(page.read_text().replace("<h1>", "<script>undefinedName()</script><h1>"))
    tab.open(page.as_uri() + "?2", 800, 600)
    assert any("undefinedName" in error for error in tab.errors), tab.errors


def test_the_page_of_an_audit_draws_its_survival(tab, tmp_path):
    """Two force fields, one of which failed by two criteria: all plots are drawn, with their bands."""
    found = {
        "healthy": [Outcome("a", r, "OK", "", None, 3, 300.0, "") for r in range(4)],
        "broken": [
            Outcome("a", 0, "BOND", "", 2.0, 3, 300.0, ""), Outcome("a", 1, "OVERLAP", "", 5.0, 3, 300.0, ""),
            *(Outcome("a", r, "OK", "", None, 3, 300.0, "") for r in (2, 3)),
        ],
    }  # fmt: skip
    plots = survival_plots({name: judged(rows, 10.0, 0.95) for name, rows in found.items()})
    assert [p.caption.partition(":")[0] for p in plots] == ["Survival of all replicas", "broken"]
    page = tmp_path / "audit.html"
    write_page(page, "Stability audit", [Section("Verdict", "", plots=plots)])
    tab.open(page.as_uri(), 1280, 800)
    tab.wait_for("document.querySelectorAll('figure.drawn').length === 2")
    assert tab.errors == []
    shown = tab.evaluate("""[...document.querySelectorAll('figure.plot')].map((figure) => ({
      lines: figure.querySelectorAll('.scatterlayer .js-line').length,
      fills: figure.querySelectorAll('.scatterlayer .js-fill').length,
      names: [...figure.querySelectorAll('.legendtext')].map((e) => e.textContent),
    }))""")
    every, criteria = shown
    assert every["names"] == ["healthy", "broken"]
    assert criteria["names"] == [REASONS[Status.BOND], REASONS[Status.OVERLAP]]
    assert every["lines"] >= 2 and every["fills"] == 2 and criteria["fills"] == 2
