"""The estimator on the particle against quadrature, and the quadrature against differences."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from cgrefine.config.refining import Refine, RefineTarget
from cgrefine.energy import SumOfTerms
from cgrefine.observables.histogram import Bins
from cgrefine.toy import models
from cgrefine.toy.dynamics import Course
from cgrefine.toy.potentials import EDGE_A, POTENTIALS, Truth, binned
from cgrefine.toy.refinement import (
    Problem,
    exact_gradient,
    exact_target,
    gradient_against_quadrature,
    histogram_of_x,
    known,
)
from cgrefine.toy.samples import sets, uniform

KT = 0.8
CFG = Refine(
    relative_entropy=0.0, strain_weight=0.0, targets=[RefineTarget(observable="x", kind="cdf")], replicas=40
)
OBSERVABLE = histogram_of_x(40)
GRID = Bins(-EDGE_A, EDGE_A, 40)


@pytest.fixture(scope="module")
def problem():
    """A small random network behind the wall, to be refined towards the uncoupled potential."""
    term = models.network("tanh", (8, 8))
    model = SumOfTerms((models.wall(50.0), term))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), term.init(jax.random.key(4)))
    params[-1]["w"] = 2.0 * params[-1]["w"]
    start = {**models.wall_params(50.0), models.NAME: params}
    truth = Truth(POTENTIALS["uncoupled"], KT, EDGE_A)
    points = uniform(truth.potential, KT, 1000, 0)
    course = Course(40, 0.05, 0.5, 1.0, 1.0, 1.0, 0.0)
    return Problem(model, start, points, sets(points), exact_target(OBSERVABLE, truth, CFG), KT, CFG, course)


def window_of(problem, frames=20, replicas=1000):
    """A window of independent frames of the model's own distribution, by the inverse of its integral."""
    at = known(problem.model, problem.start, KT)
    x = np.interp(np.random.default_rng(5).random((frames, replicas)), np.cumsum(at.p) - 0.5 * at.p, at.x)
    positions = np.zeros((frames, replicas, 3), np.float32)
    positions[:, :, 0] = x
    return problem.simulator.empty()._replace(positions=positions)


def test_the_exact_gradient_is_that_of_the_histogram(problem):
    """Along one parameter of each layer, by differences of the quadrature."""
    network = problem.start[models.NAME]
    slope = np.random.default_rng(0).normal(size=GRID.size)
    histogram, gradient = exact_gradient(problem.model, problem.start, KT, GRID, slope)

    def value(layer: int, name: str, change: float) -> float:
        moved = [dict(one) for one in network]
        moved[layer][name] = moved[layer][name].copy()
        moved[layer][name].flat[0] += change
        at = known(problem.model, {**problem.start, models.NAME: moved}, KT)
        return float(slope @ binned(at.x, at.p, GRID))

    h = 1e-4
    for layer, name in ((0, "w"), (0, "b"), (1, "w"), (2, "w")):
        expected = (value(layer, name, h) - value(layer, name, -h)) / (2.0 * h)
        assert gradient[layer][name].flat[0] == pytest.approx(expected, rel=1e-5, abs=1e-8)
    at = known(problem.model, problem.start, KT)
    assert histogram == pytest.approx(binned(at.x, at.p, GRID))


def test_the_estimated_gradient_is_the_exact_one(problem):
    """Four numbers within three standard errors of 20 groups (false alarm 3 %), known to 10 %."""
    found = gradient_against_quadrature(problem, problem.start, window_of(problem), 20, 0)
    assert np.abs(found.deviation).max() < 3.0
    assert (found.stderr[0] < 0.1 * found.exact[0]) and (found.exact > 0.0).all()


@pytest.mark.parametrize("planted", ["temperature", "distribution"])
def test_an_error_of_the_estimator_is_found(problem, planted):
    """Frames that are of kT and are taken for those of half of it, and frames of another energy."""
    window = window_of(problem)
    if planted == "temperature":
        problem = replace(problem, kT=0.5 * KT)
    else:
        window = window._replace(positions=0.8 * window.positions)
    found = gradient_against_quadrature(problem, problem.start, window, 20, 0)
    assert np.abs(found.deviation).max() > 5.0


def test_the_burn_in_is_left_out(problem):
    window = window_of(problem, frames=6, replicas=200)
    spoilt = window.positions.copy()
    spoilt[:3] = 4.0
    found = [
        gradient_against_quadrature(problem, problem.start, window._replace(positions=p), 10, 3)
        for p in (window.positions, spoilt)
    ]
    assert np.array_equal(found[0].estimate, found[1].estimate)


def test_the_target_is_met_by_the_exact_histogram(problem):
    target = problem.target
    assert OBSERVABLE.grid == GRID
    assert target.kind == "cdf" and target.mean.sum() == pytest.approx(1.0)
    assert target.value(target.mean) == pytest.approx(0.0, abs=1e-12)
    assert GRID.centres[np.argmax(target.mean[1:-1])] == pytest.approx(3.125)
