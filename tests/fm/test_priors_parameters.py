"""Scaled deviations of prior parameters: what each is moved by, and what is never moved."""

import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.fm.priors import parameters

TERMS = {"terms": [
    {"name": "bond", "kind": "bond"}, {"name": "angle", "kind": "angle"},
    {"name": "dihedral", "kind": "dihedral"}, {"name": "sum", "kind": "dihedral"},
    {"name": "repulsion", "kind": "pair"}, {"name": "electrostatics", "kind": "pair"},
]}  # fmt: skip
PARAMS = {
    "bond": {"k": np.array([100.0, 200.0]), "x0": np.array([3.8, 2.95])},
    "angle": {"coefficients": np.array([[1.0, 0.0, -1.0]])},
    "dihedral": {"cos": np.array([[0.5, 0.0, 0.0]]), "sin": np.array([[0.0, 0.2, 0.0]])},
    "sum": {"k": np.array([[0.5, 0.0]]), "gamma": np.array([[1.0, 0.3]])},
    "repulsion": {"sigma": np.array([[3.8, 4.0], [4.0, 4.1]])},
    "electrostatics": {"charge": np.array([1.0, -1.0])},
}
KT = 0.6


@pytest.fixture
def scaling():
    return parameters.scaling(TERMS, PARAMS, KT)


def ones(scaling):
    zeros = scaling.zeros(PARAMS, jnp.float64)
    return {term: {name: leaf + 1.0 for name, leaf in leaves.items()} for term, leaves in zeros.items()}


def test_zero_is_the_fit(scaling):
    moved = scaling.params(PARAMS, scaling.zeros(PARAMS, jnp.float64))
    assert {t: set(p) for t, p in moved.items()} == {t: set(p) for t, p in PARAMS.items()}
    for term, leaves in PARAMS.items():
        for name, value in leaves.items():
            assert np.array_equal(moved[term][name], value)


def test_one_by_hand(scaling):
    """Force constants by 30 %, as e^0.3; places by 0.05 Å or rad, energies by kT, phases by 0.2 rad."""
    moved = scaling.params(PARAMS, ones(scaling))
    np.testing.assert_allclose(moved["bond"]["k"], np.exp(0.3) * PARAMS["bond"]["k"])
    np.testing.assert_allclose(moved["bond"]["x0"], [3.85, 3.0])
    np.testing.assert_allclose(moved["angle"]["coefficients"], [[1.6, 0.6, -0.4]])
    np.testing.assert_allclose(moved["repulsion"]["sigma"], np.exp(0.05) * PARAMS["repulsion"]["sigma"])
    assert np.array_equal(moved["electrostatics"]["charge"], [1.0, -1.0])


def test_harmonics_that_the_fit_left_out_stay_out(scaling):
    moved = scaling.params(PARAMS, ones(scaling))
    np.testing.assert_allclose(moved["dihedral"]["cos"], [[1.1, 0.6, 0.0]])
    np.testing.assert_allclose(moved["dihedral"]["sin"], [[0.6, 0.8, 0.0]])
    np.testing.assert_allclose(moved["sum"]["k"], [[1.1, 0.0]])
    np.testing.assert_allclose(moved["sum"]["gamma"], [[1.2, 0.3]])


def test_diameters_stay_symmetric(scaling):
    z = scaling.zeros(PARAMS, jnp.float64)
    z["repulsion"]["sigma"] = jnp.asarray([[0.0, 2.0], [0.0, 0.0]])
    moved = np.asarray(scaling.params(PARAMS, z)["repulsion"]["sigma"])
    np.testing.assert_allclose(moved[0, 1], 4.0 * np.exp(0.05))
    assert moved[0, 1] == moved[1, 0]


def test_mean_square_by_hand():
    z = {"a": {"x": jnp.asarray([1.0, 2.0])}, "b": {"y": jnp.asarray([[3.0]])}}
    assert float(parameters.mean_square(z)) == pytest.approx(14.0 / 3.0)
    assert float(parameters.mean_square({})) == 0.0


def test_what_cannot_be_moved_is_refused():
    with pytest.raises(ValueError, match=r"bond.k has the value 0: it must be above 0"):
        parameters.scaling(TERMS, {**PARAMS, "bond": {"k": np.zeros(2), "x0": np.ones(2)}}, KT)
    with pytest.raises(ValueError, match=r"angle.depth: no rule for angle depth"):
        parameters.scaling(TERMS, {**PARAMS, "angle": {"depth": np.ones(2)}}, KT)


def test_equal_scalings_share_compilations(scaling):
    assert scaling == parameters.scaling(TERMS, PARAMS, KT)
    assert hash(scaling) == hash(parameters.scaling(TERMS, PARAMS, KT))
