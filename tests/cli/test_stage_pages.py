"""Plots of the stages' pages: where a contact map has which side, and that a browser draws all of them."""

import numpy as np
import pytest

from cgrefine import system
from cgrefine.cli import inspect_figures, observe_figures, priors_figures, scaling
from cgrefine.cli.observe_findings import SurfacePair
from cgrefine.fm.priors import marginals
from cgrefine.observables import free_energy
from cgrefine.observables.histogram import Bins
from cgrefine.report.page import Section, write_page
from cgrefine.report.plot import HeatMap, Plot
from tests import browser
from tests.chains import ideal_helix
from tests.fm.test_priors_diagnostics import FACTS, KT, params

TOPOLOGY = system.topology_from_species([0] * 8)
PAIRS = np.array([[0, 5], [1, 7]])


def contact_maps() -> list[Plot]:
    return observe_figures.contacts(TOPOLOGY, PAIRS, np.array([0.9, 0.2]), np.array([0.5, 0.6]))


def surfaces() -> list[Plot]:
    rng = np.random.default_rng(0)
    grids = Bins(-3.0, 3.0, 12), Bins(-2.0, 2.0, 8)
    one, other = (free_energy.surface([rng.normal(shift, 1.0, (500, 2))], *grids, KT) for shift in (0.0, 0.4))
    return observe_figures.surface(
        "Rg-Q", SurfacePair(("Rg, Å", "Q"), grids, one, other, free_energy.compared(one, other, KT))
    )


def test_the_reference_is_below_the_diagonal_and_the_model_above():
    both, difference = (plot.marks[0] for plot in contact_maps())
    assert isinstance(both, HeatMap) and isinstance(difference, HeatMap)
    # first index to the right, second upwards
    assert both.values[5, 0] == 0.9 and both.values[0, 5] == 0.5
    assert both.values[7, 1] == 0.2 and both.values[1, 7] == 0.6
    assert difference.values[5, 0] == difference.values[0, 5] == pytest.approx(-0.4)
    assert both.limits == (0.0, 1.0) and difference.about_zero
    assert np.isfinite(both.values).sum() == 4


def test_surfaces_share_a_scale_and_their_difference_is_about_zero():
    one, other, gap = (plot.marks[0] for plot in surfaces())
    assert isinstance(one, HeatMap) and isinstance(other, HeatMap) and isinstance(gap, HeatMap)
    assert one.limits == other.limits and np.nanmin(one.values) == np.nanmin(other.values) == 0.0
    assert one.limits is not None and one.limits[1] == max(np.nanmax(m.values) for m in (one, other))
    assert gap.about_zero and gap.label == "ΔF, kcal/mol" and one.label == "F, kcal/mol"


@pytest.mark.skipif(browser.executable() is None, reason="no browser: `make browser`")
@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True)], ids=["desk", "phone"])
def test_a_browser_draws_them_without_an_error_or_a_request(tmp_path, width, phone):
    """Two axes of y, names on both axes, columns of one to three: all inside the window."""
    counts = marginals.counted(marginals.empty(), TOPOLOGY, ideal_helix(8)[None], 3)
    rows = [{"devices": n, "seconds": 1.0 / n, "batches": 4} for n in (1, 2, 4)]
    sections = [
        Section("Priors", plots=priors_figures.term("bond", FACTS, params(), counts, counts, KT), columns=2),
        Section("Sizes", plots=[priors_figures.sizes(np.arange(400.0).reshape(20, 20))]),
        Section("Contacts", plots=contact_maps(), columns=3),
        Section("Surfaces", plots=surfaces(), columns=3),
        Section("Scaling", plots=[scaling.speeds({"strong": {"rows": rows, "serial": 0.1}})]),
        Section("Lengths", plots=[inspect_figures.lengths_plot([50, 73, 73, 269])]),
    ]
    path = tmp_path / "report.html"
    write_page(path, "Plots of the stages", sections)
    assert path.stat().st_size < 4e6  # plotly.js once: 2.0 MB
    executable = browser.executable()
    assert executable is not None
    with browser.opened(executable, tmp_path / "profile") as tab:
        tab.open(path.as_uri(), width, 844, phone)
        tab.wait_for("document.querySelectorAll('figure.drawn').length === 10")
        assert tab.errors == []
        assert [r for r in tab.requests if not r.startswith(("data:", "blob:"))] == [path.as_uri()]
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.evaluate("document.querySelectorAll('.main-svg .heatmaplayer image').length") == 6
