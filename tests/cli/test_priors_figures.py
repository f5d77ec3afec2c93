"""Plots of fitted priors: densities, energies and forces against what the parameters say by hand."""

import numpy as np
import pytest

from cgrefine import system
from cgrefine.cli import priors_figures
from cgrefine.fm.priors import marginals
from cgrefine.report.plot import Band, Histogram, Line
from tests.chains import ideal_helix
from tests.fm.test_priors_diagnostics import FACTS, KT, params


@pytest.fixture(scope="module")
def counts():
    topology = system.topology_from_species([0] * 8)
    return marginals.counted(marginals.empty(), topology, ideal_helix(8)[None], 3)


def test_a_spring_is_a_parabola_with_a_straight_force(counts):
    """½ k (r - r0)² over kT, and -k (r - r0)/kT on the axis to the right; one row has data: two plots."""
    densities, energies = priors_figures.term("bond", FACTS, params(k=160.0), counts, counts, KT)
    energy, force = (m for m in energies.marks if isinstance(m, Line))
    r = np.asarray(energy.x)
    assert not energy.right and force.right and energies.right is not None
    assert np.asarray(energy.y) == pytest.approx(80.0 * (r - 3.8) ** 2 / KT, abs=1e-3)
    assert np.asarray(force.y) == pytest.approx(-160.0 * (r - 3.8) / KT, abs=1e-6)
    assert [getattr(m, "name", "") for m in densities.marks] == [
        "reference", "implied by the term", "priors alone, MD",
    ]  # fmt: skip
    (spring,) = (m for m in densities.marks if isinstance(m, Line))
    weight = r**2 * np.exp(-80.0 * (r - 3.8) ** 2 / KT)
    assert np.asarray(spring.y) == pytest.approx(weight / weight.sum() / (r[1] - r[0]), rel=1e-3, abs=1e-6)


def test_densities_of_angles_are_per_degree(counts):
    densities, _ = priors_figures.term("angle", FACTS, params(), counts, None, KT)
    (counted,) = (m for m in densities.marks if isinstance(m, Histogram))
    assert np.sum(np.asarray(counted.heights) * np.diff(counted.edges)) == pytest.approx(1.0)
    assert densities.y.label == "density, 1/°"


def test_of_many_types_those_with_the_most_data_are_shown(counts):
    everything = counts.dihedral._replace(counts=counts.dihedral.counts + 1.0)
    entry = {"name": "dihedral", "kind": "dihedral", "form": "fourier", "classes": "type", "damping": None}
    values = {"dihedral": {"cos": np.ones((400, 1)), "sin": np.zeros((400, 1))}}
    band = (everything.centres, np.full((400, 360), 0.1))
    many = priors_figures.term(
        "dihedral", {"terms": [entry]}, values, counts._replace(dihedral=everything), None, KT, band
    )
    assert len(many) == 2 * priors_figures.MAX_ROWS and many[0].caption.startswith("dihedral ALA-ALA")
    (spread,) = (m for m in many[1].marks if isinstance(m, Band))
    assert (np.asarray(spread.high) - np.asarray(spread.low)) / 2 == pytest.approx(0.1 / KT)


def test_sizes_name_both_residues():
    plot = priors_figures.sizes(np.arange(400.0).reshape(20, 20))
    assert list(plot.x.names or ()) == list(plot.y.names or ()) == list("ARNDCQEGHILKMFPSTWYV")
