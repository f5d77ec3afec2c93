"""The penalised Poisson fit is the minimum it claims to be; shrinkage has its limits."""

import numpy as np
import pytest
from scipy.optimize import minimize

from cgrefine.fm.priors import classes, inversion
from cgrefine.fm.priors.designs import spline_design

LOW, HIGH, KNOTS = 1.4, 2.6, 14


def problem(rows=1):
    rng = np.random.default_rng(6)
    design = np.concatenate([np.ones((30, 1)), rng.normal(size=(30, 2))], axis=1)
    measure, penalty = rng.uniform(0.5, 2.0, 30), np.diag([0.0, 3.0, 0.2])
    return rng.poisson(20.0 * measure, (rows, 30)).astype(float), measure, design, penalty


def test_poisson_fit_is_the_minimum():
    """Against a general minimiser on the same objective, and the closed form of one constant."""
    counts, measure, design, penalty = problem()

    def objective(c):
        return np.sum(measure * np.exp(-design @ c) + counts[0] * (design @ c)) + 0.5 * c @ penalty @ c

    found = inversion.penalised_poisson(counts, measure, design, penalty)[0]
    assert found == pytest.approx(minimize(objective, np.zeros(3), tol=1e-10).x, abs=1e-4)
    alone = inversion.penalised_poisson(counts, measure, design[:, :1], np.zeros((1, 1)))
    assert alone[0, 0] == pytest.approx(-np.log(counts.sum() / measure.sum()), rel=1e-9)


def test_rows_are_fitted_each_on_its_own():
    """Many rows at a time, with measures of their own, are as one at a time, whenever each converges."""
    counts, measure, design, penalty = problem(7)
    counts *= 10.0 ** np.arange(7)[:, None]
    measures = measure * np.random.default_rng(1).uniform(0.5, 2.0, counts.shape)
    together = inversion.penalised_poisson(counts, measures, design, penalty)
    for row in range(7):
        alone = inversion.penalised_poisson(counts[row : row + 1], measures[row], design, penalty)
        assert together[row] == pytest.approx(alone[0], abs=1e-7)


def test_parameters_that_are_not_used_stay_zero():
    counts, measure, design, penalty = problem(2)
    used = np.array([[True, True, True], [True, False, True]])
    found = inversion.penalised_poisson(counts, measure, design, penalty, used)
    fewer = inversion.penalised_poisson(counts, measure, design[:, [0, 2]], penalty[[0, 2]][:, [0, 2]])
    assert found[1, 1] == 0.0 and found[0, 1] != 0.0
    assert found[1, [0, 2]] == pytest.approx(fewer[1], abs=1e-7)


def test_poisson_fit_survives_empty_regions():
    """Counts in a corner of the range, penalty or none: finite, and uphill away from the data."""
    counts = np.zeros((1, 60))
    counts[0, 20:24] = 1000.0
    design = spline_design(np.linspace(LOW, HIGH, 60), LOW, HIGH, KNOTS)
    second = np.diff(np.eye(KNOTS), 2, axis=0)
    for smoothing in (0.0, 1.0):
        c = inversion.penalised_poisson(counts, np.ones(60), design, smoothing * second.T @ second)[0]
        u = design @ c
        assert np.all(np.isfinite(c)) and u[0] > u[21] + 3.0 and u[-1] > u[21] + 3.0


def test_likelihood_by_hand():
    """Two bins of measure 1 and 3, u = 0 and ln 2: p = 0.4, 0.6."""
    found = inversion.log_likelihood(
        np.array([[np.log(2.0)]]), np.array([[5.0, 7.0]]), np.array([1.0, 3.0]), np.array([[0.0], [1.0]])
    )
    assert found[0] == pytest.approx(5 * np.log(0.4) + 7 * np.log(0.6))


def test_levels_are_sums_of_their_members():
    rng = np.random.default_rng(0)
    values = rng.random((len(classes.labels("angle", "type")), 3))
    everything, by_class, own = inversion.by_level(values, "angle", "type")
    assert everything == pytest.approx(values.sum(axis=0, keepdims=True))
    pre_proline = classes.rows("angle", "type")[classes.rows("angle", "class") == 3]
    assert by_class[3] == pytest.approx(values[np.unique(pre_proline)].sum(axis=0))
    assert own is values


def test_shrinkage_by_hand():
    """Gly has n = n0: half way from its parent, itself a quarter (n = n0/3) of the way from its own."""
    parent = classes.parents("angle", "type")
    levels = [np.array([[8.0]]), np.full((5, 1), 4.0), np.full((len(parent), 1), 2.0)]
    n = [np.array([1e9]), np.array([100.0, 100.0, 0.0, 0.0, 0.0]), np.zeros(len(parent))]
    n[2][7] = 300.0
    levels[1][2] = np.nan
    found = inversion.shrunk(levels, n, "angle", "type", 300.0)[:, 0]
    assert parent[7] == 1 and found[7] == pytest.approx(0.5 * 2.0 + 0.5 * 7.0)
    assert found[0] == pytest.approx(7.0)
    assert found[parent == 2] == pytest.approx(8.0)


def test_shrinkage_limits():
    """n0 = 0: own estimates where there are observations. n0 → ∞: those of all classes."""
    levels = [np.array([[8.0]]), np.arange(5.0)[:, None]]
    n = [np.array([70.0]), np.array([10.0, 20.0, 0.0, 30.0, 10.0])]
    assert inversion.shrunk(levels, n, "angle", "class", 0.0)[:, 0].tolist() == [0.0, 1.0, 8.0, 3.0, 4.0]
    assert inversion.shrunk(levels, n, "angle", "class", 1e15)[:, 0] == pytest.approx(8.0, rel=1e-10)
    assert inversion.shrunk(levels[:1], n[:1], "angle", "global", 300.0)[0, 0] == 8.0
