"""Exchange with aggforce: objects with its attributes, and the package itself where it is installed."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cgrefine.data import aggforce
from cgrefine.data import force_map as fm
from cgrefine.data import force_window as fw
from cgrefine.errors import InputError
from tests.data.linear_anchors import toy


@pytest.fixture(scope="module")
def case():
    molecule = toy("AGPS")
    band = fw.make_band(molecule.atoms.residue, molecule.groups, molecule.mapping.ca, 1)
    rng = np.random.default_rng(0)
    local = fw.local_map(band, [rng.normal(size=len(band.window(b))) for b in range(4)])
    return molecule.groups, molecule.mapping.ca, fw.to_dense(local)


def linear(matrix):
    return SimpleNamespace(standard_matrix=matrix)


def test_a_linear_map_and_a_trajectory_map_are_taken_over(case):
    groups, ca, weights = case
    coordinates = linear(aggforce.slice_map(len(groups), ca))
    whole = SimpleNamespace(force_map=linear(weights), coord_map=coordinates)
    for found in (linear(weights), whole):
        taken = aggforce.import_map(found, groups, ca)
        assert np.array_equal(taken, weights) and taken is not weights


def broken(weights, row, column, by):
    out = weights.copy()
    out[row, column] += by
    return out


def test_maps_that_would_be_wrong_are_refused(case):
    groups, ca, weights = case
    n = len(groups)
    hydrogen = ca[1] + 1
    bad_force = SimpleNamespace(force_map=SimpleNamespace(scale=None, trans=None), coord_map=None)
    moved = SimpleNamespace(force_map=linear(weights), coord_map=linear(aggforce.slice_map(n, ca + 1)))
    for found, message in (
        (bad_force, "has no standard_matrix"),
        (object(), "has no standard_matrix"),
        (linear(weights[:, :-1]), r"shape \(4, 35\), must be finite and \(beads, atoms\) = \(4, 36\)"),
        (linear(broken(weights, 0, 0, np.nan)), "must be finite"),
        (linear(broken(weights, 0, ca[1], 1e-3)), r"\|W Mᵀ − I\| is 0\.001"),
        (linear(broken(weights, 1, hydrogen, 1e-3)), "coefficients in a rigid group is 0"),
        (moved, "does not place the 4 beads at the Cα"),
    ):
        with pytest.raises(InputError, match=message):
            aggforce.import_map(found, groups, ca)


def test_export_without_the_package_says_how_to_get_it(case, monkeypatch):
    monkeypatch.setitem(sys.modules, "aggforce", None)
    with pytest.raises(InputError, match=r"aggforce is not installed.*pip install"):
        aggforce.export_map(case[2])


def test_export_makes_a_linear_map(case, monkeypatch):
    """The package's constructor gets the matrix, as numpy array."""
    stand_in = SimpleNamespace(LinearMap=linear)
    monkeypatch.setitem(sys.modules, "aggforce", stand_in)
    groups, ca, weights = case
    made = aggforce.export_map(weights)
    assert np.array_equal(aggforce.import_map(made, groups, ca), weights)


def test_round_trip_with_the_real_package(case):
    real = pytest.importorskip("aggforce")
    groups, ca, weights = case
    made = aggforce.export_map(weights)
    assert isinstance(made, real.LinearMap)
    forces = np.random.default_rng(1).normal(size=(5, len(groups), 3))
    assert np.allclose(made(forces), fm.apply(weights, forces), rtol=0, atol=1e-12)
    assert np.array_equal(aggforce.import_map(made, groups, ca), weights)
