"""Linear fits in closed form, their expected errors against repeated draws, and scores against the truth."""

import jax
import numpy as np
import pytest

from cgrefine.config.training import Train
from cgrefine.toy import fitting, models
from cgrefine.toy.fitting import Grid, design_of, force_of, noise_floor, pmf_of, solved, trained, trials
from cgrefine.toy.potentials import EDGE_A, POTENTIALS, Truth
from cgrefine.toy.samples import Points, sets, uniform
from tests.toy.test_samples import KT, WAISTED

X = np.linspace(-EDGE_A, EDGE_A, 801)


def points_of(force: np.ndarray, x: np.ndarray, weight: np.ndarray | None = None) -> Points:
    weight = np.ones(len(x)) if weight is None else weight
    return Points(x, 0.0 * x, force, weight / weight.mean(), np.arange(len(x)) % 10 == 0)


@pytest.mark.parametrize("term", [models.spline(9), models.polynomial(5)], ids=["spline", "polynomial"])
def test_the_design_is_the_force(term):
    size = len(term.init(jax.random.key(0))["c"])
    c = np.random.default_rng(0).normal(size=size)
    assert design_of(term, size, X) @ c == pytest.approx(force_of(term, {"c": c}, X), abs=1e-9)


def test_a_polynomial_is_found_with_its_degree():
    """The force of x²/4 - x⁴/100; of forms that hold it the smallest has the least error but for rounding."""
    x = np.random.default_rng(1).uniform(-EDGE_A, EDGE_A, 400)
    sizes = trials("features", points_of(0.0 * x, x), X)
    fit = solved(sizes, points_of(-0.5 * x + 0.04 * x**3, x))
    assert force_of(fit.term, fit.params, X) == pytest.approx(-0.5 * X + 0.04 * X**3, abs=1e-4)
    assert len(fit.params["c"]) >= 4


def test_weights_decide_between_points_that_disagree():
    """Two forces at each place, 1 and -1, of weights 3 and 1: their mean is 0.5."""
    x = np.repeat(np.linspace(-4.9, 4.9, 300), 2)
    force = np.tile([1.0, -1.0], 300)
    fit = solved(trials("features", points_of(force, x), X), points_of(force, x, np.tile([3.0, 1.0], 300)))
    middle = np.abs(X) < 4.0
    assert force_of(fit.term, fit.params, X)[middle] == pytest.approx(0.5, abs=0.15)


def test_the_noise_floor_is_the_mean_error_of_many_draws(monkeypatch):
    """Of 300 draws of forces about a mean force with noise that depends on x; within four standard errors
    (false alarm 6e-5 each). Weights that are not those of the noise are part of it."""
    monkeypatch.setitem(models.LINEAR, "spline", (models.spline, (10,)))
    rng = np.random.default_rng(2)
    x, weight = rng.uniform(-EDGE_A, EDGE_A, 600), rng.uniform(0.2, 1.8, 600)
    pmf = np.cos(X) + 0.02 * X**4
    truth = Grid(X, pmf - pmf.mean(), np.sin(X) - 0.08 * X**3, 0.2 + 0.1 * (X + 5.0))
    points = points_of(0.0 * x, x, weight)
    sizes = trials("spline", points, X)
    force, sigma = np.sin(x) - 0.08 * x**3, np.sqrt(0.2 + 0.1 * (x + 5.0))
    errors = []
    for _ in range(300):
        fit = solved(sizes, points._replace(force=force + sigma * rng.normal(size=600)))
        score = truth.score(sizes[0].on_grid @ fit.params["c"])
        errors.append((score.force_rmse**2, score.pmf_rmse**2))
    floor = noise_floor(sizes, points, truth)
    assert floor.parameters == 10
    for draws, expected in zip(np.array(errors).T, (floor.force_rmse**2, floor.pmf_rmse**2), strict=True):
        assert abs(draws.mean() - expected) < 4.0 * draws.std() / np.sqrt(300)
        assert draws.std() / np.sqrt(300) < 0.06 * expected


def test_scores_are_of_the_force_and_of_its_integral():
    """A force that is too large by 0.1 everywhere has a PMF that is off by -0.1 x, of root mean square
    0.1 · 5/√3."""
    truth = Grid(X, pmf_of(X, np.sin(X)), np.sin(X), 0.0 * X)
    score = truth.score(np.sin(X) + 0.1)
    assert score.force_rmse == pytest.approx(0.1)
    assert score.force_error == pytest.approx(0.01 / np.var(np.sin(X)))
    assert score.pmf_rmse == pytest.approx(0.1 * EDGE_A / np.sqrt(3.0), rel=1e-2)
    assert truth.score(np.sin(X)).pmf_rmse == 0.0


def test_the_pmf_is_the_integral_with_its_sign():
    assert pmf_of(X, -X) == pytest.approx(0.5 * X**2 - np.mean(0.5 * X**2), abs=1e-4)


def test_the_grid_is_the_truth(monkeypatch):
    monkeypatch.setattr(fitting, "GRID_POINTS", 401)
    truth = Truth(POTENTIALS["coupled"], 1.0, EDGE_A)
    at = fitting.grid(truth)
    assert at.score(at.force).pmf_rmse < 5e-3  # of the trapezoidal rule
    assert at.pmf.mean() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.stages
def test_the_trainer_fits_an_energy_and_the_prior_changes_nothing_on_data():
    """A valley of changing width in 25 epochs, bit for bit the same with a prior of another stiffness; far
    off when the weights are not told to the trainer."""
    at, points = fitting.grid(Truth(WAISTED, KT, EDGE_A)), uniform(WAISTED, KT, 4000, 0)
    settings = Train(epochs=25, learning_rate=5e-3, batch_beads=200, decoy_fraction=0.0)
    term = models.network("silu", (32, 32))
    fits = [trained(term, sets(points), settings, k) for k in (50.0, 7.0)]
    assert all(np.array_equal(a, b) for a, b in zip(*(jax.tree.leaves(f.params) for f in fits), strict=True))
    flat = trained(term, sets(points._replace(weight=np.ones(4000))), settings, 50.0)
    errors = [at.score(force_of(term, f.params, at.x)).force_rmse for f in (fits[0], flat)]
    assert errors[0] < 0.3 and errors[0] < 0.2 * errors[1]
