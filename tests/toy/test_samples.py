"""Weights of points make the mean force right at each x; the sets hold every point once, with its weight."""

import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.data.loader import Reading, each, sweep
from cgrefine.data.packing import budget_for
from cgrefine.data.store import in_memory
from cgrefine.energy import FieldTerm
from cgrefine.system import topology_from_species
from cgrefine.toy.dynamics import Course
from cgrefine.toy.potentials import Truth
from cgrefine.toy.samples import CROWD, Points, halves, langevin, sets, uniform

KT = 0.5


def waisted(params, positions):
    """½x² + ½y² (1.5 + sin x), a valley whose width changes with x."""
    x, y = positions[:, 0], positions[:, 1]
    return 0.5 * x**2 + 0.5 * y**2 * (1.5 + jnp.sin(x))


WAISTED = FieldTerm("waisted", waisted)


def mean_force(x: np.ndarray) -> np.ndarray:
    """-x - ½⟨y²⟩ cos x with ⟨y²⟩ = kT/(1.5 + sin x): it depends on the temperature."""
    return -x - 0.5 * KT * np.cos(x) / (1.5 + np.sin(x))


def deviations(points: Points) -> np.ndarray:
    """Of the weighted mean of force less exact mean force in eight bins of x, in standard errors."""
    left = points.force - mean_force(points.x)
    found = []
    for low in np.linspace(-2.0, 1.5, 8):
        inside = (points.x >= low) & (points.x < low + 0.5)
        w, r = points.weight[inside], left[inside]
        mean = np.sum(w * r) / np.sum(w)
        found.append(mean / (np.sqrt(np.sum(w**2 * (r - mean) ** 2)) / np.sum(w)))
    return np.array(found)


def test_the_truth_is_what_is_known_by_hand():
    x = np.array([-1.2, 0.4, 1.5])
    assert Truth(WAISTED, KT, 30.0).conditional(x)[1] == pytest.approx(mean_force(x), rel=1e-6)


def test_uniform_points_are_weighted():
    """Eight bins within four standard errors (false alarm 5e-4), and far off without the weights."""
    points = uniform(WAISTED, KT, 20_000, 3)
    assert np.abs(deviations(points)).max() < 4.0
    assert np.abs(deviations(points._replace(weight=np.ones(20_000)))).max() > 10.0


def test_points_of_hotter_dynamics_are_weighted():
    """Frames 8 relaxation times apart; eight bins within four standard errors, and far off without weights,
    or with those of uniform points."""
    course = Course(2000, 0.2, 1.0, 1.0, duration=160.0, interval=16.0, burn_in=0.2)
    points = langevin(WAISTED, KT, 3.0 * KT, 14_000, course, 4)
    assert np.abs(deviations(points)).max() < 4.0
    assert np.abs(deviations(points._replace(weight=np.ones(14_000)))).max() > 10.0
    too_much = np.exp(-0.5 * points.y**2 * (1.5 + np.sin(points.x)) / KT)
    assert np.abs(deviations(points._replace(weight=too_much))).max() > 6.0
    with pytest.raises(ValueError, match="frames within 5 Å, 17000 wanted"):
        langevin(WAISTED, KT, 3.0 * KT, 17_000, course, 4)


def test_weights_have_a_mean_of_one_and_halves_are_scaled_again():
    points = uniform(WAISTED, KT, 3000, 0)
    left, right = halves(points, 0.0)
    assert (left.x < 0.0).all() and (right.x >= 0.0).all() and len(left.x) + len(right.x) == 3000
    for part in (points, left, right):
        assert part.weight.mean() == pytest.approx(1.0)
    equal = points._replace(weight=np.ones(3000))
    assert equal.effective == pytest.approx(3000) and points.effective < 2500


def test_every_point_is_in_one_frame_with_its_weight():
    """To float32; the batches of the trainer have the weights of the points in them."""
    points = uniform(WAISTED, KT, 2000, 1)
    data = sets(points)
    assert len(data.training) == 1800 // CROWD and len(data.validation) == 200 // CROWD
    budget = budget_for([data.training], 4 * CROWD, 1.0)
    seen = []
    for packed in each(sweep(data.training, budget, Reading(16, 1, 0))):
        real = packed.batch.weight > 0.0
        at, force = packed.batch.positions[real], packed.batch.target_forces[real]
        assert not at[:, 1:].any() and not force[:, 1:].any()
        seen.append(np.stack([at[:, 0], force[:, 0], packed.batch.weight[real]], axis=1))
    found = np.concatenate(seen)
    expected = np.stack([points.x, points.force, points.weight], axis=1)[~points.held_out].astype(np.float32)
    one, other = (rows[np.lexsort(rows.T)] for rows in (found, expected))
    assert np.array_equal(one, other)


def test_a_weight_of_zero_is_refused():
    """It marks frames whose forces are not finite."""
    arrays = {
        "positions": np.zeros((1, 2, 3)),
        "forces": np.zeros((1, 2, 3)),
        "weights": np.array([[1.0, 0.0]]),
        **{name: np.zeros(1) for name in ("temperature_K", "replica", "frame", "validation")},
    }
    with pytest.raises(ValueError, match="must be above 0"):
        in_memory("one", topology_from_species([0, 0], breaks=[1]), arrays)
