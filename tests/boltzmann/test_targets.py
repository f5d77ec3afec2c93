"""Losses of means against distances written out, their slopes, floors, and targets that cannot be."""

import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.boltzmann.gradient import weighted_mean
from cgrefine.boltzmann.targets import Target, target
from cgrefine.observables import compare
from cgrefine.observables.histogram import bins
from cgrefine.observables.statistics import estimate, estimate_of_means
from cgrefine.observables.structure import Observable, radius_of_gyration, scalar_histogram

RNG = np.random.default_rng(0)
RG = scalar_histogram("rg", "Å", radius_of_gyration, bins(0.0, 10.0, 0.5))
ANGLE = scalar_histogram("phi", "rad", radius_of_gyration, bins(-np.pi, np.pi, 0.3, periodic=True))
PAIRS = Observable("contacts", "", (12,), lambda x: x[:12, 0])


def histogram(observable, seed=1, sharp=8.0):
    rng, p = np.random.default_rng(seed), np.zeros(observable.shape)
    p[1:-1] = rng.dirichlet(np.full(observable.shape[0] - 2, sharp))
    return p


def of(kind, observable, mean, **kwargs):
    return Target(observable, kind, mean, np.zeros(observable.shape), **kwargs)


KINDS = ["noise", "cdf", "jensen_shannon", "kullback_leibler", "bernoulli", "mse"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_zero_at_the_target_with_no_slope_there(kind):
    observable = PAIRS if kind == "bernoulli" else RG
    mean = RNG.random(12) if kind == "bernoulli" else histogram(RG)
    there = of(kind, observable, mean)
    variance = np.full(mean.shape, 0.1)
    assert there.value(mean, variance) == pytest.approx(0.0, abs=1e-14)
    # of distributions the slope may be the same in all bins: mass cannot be made
    slope = there.slope(mean, variance)
    np.testing.assert_allclose(slope - slope.mean(), 0.0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_slope_is_the_derivative(kind):
    observable = PAIRS if kind == "bernoulli" else RG
    mean, at = (RNG.random(12), RNG.random(12)) if kind == "bernoulli" else (histogram(RG), histogram(RG, 2))
    found, variance = of(kind, observable, mean, weight=3.0), np.full(mean.shape, 0.1)
    for k in (1, 4, 9):
        step = np.zeros(mean.shape)
        step[k] = 1e-6
        numeric = (found.value(at + step, variance) - found.value(at - step, variance)) / 2e-6
        assert found.slope(at, variance)[k] == pytest.approx(numeric, rel=1e-6)


def test_noise_is_one_where_the_difference_is_noise():
    """Both sides drawn around the same mean: (o - g)²/(σ_o² + σ_g²) has mean 1; 4 standard errors."""
    size = 4000
    observable = Observable("many", "", (size,), lambda x: x[:, 0])
    wide, narrow = RNG.random(size) + 0.5, RNG.random(size) + 0.5
    o, g = RNG.normal(0, wide), RNG.normal(0, narrow)
    found = Target(observable, "noise", g, narrow**2).value(o, wide**2)
    assert found == pytest.approx(1.0, abs=4 * np.sqrt(2 / size))


def test_cdf_of_two_points_is_their_distance():
    """Point masses 3 bins apart: the distributions differ by 1 over 1.5 Å, and are pulled together."""
    p, q = np.zeros(RG.shape), np.zeros(RG.shape)
    p[4], q[7] = 1.0, 1.0
    found = of("cdf", RG, p)
    assert found.value(q) == pytest.approx(1.5)
    slope = found.slope(q)
    assert slope[5] < slope[6] < slope[7] <= slope[8]


def test_cdf_on_a_circle_does_not_know_where_it_is_cut():
    p, q = histogram(ANGLE, 3), histogram(ANGLE, 4)

    def turned(h):
        return np.concatenate([[0.0], np.roll(h[1:-1], 5), [0.0]])

    assert of("cdf", ANGLE, p).value(q) == pytest.approx(of("cdf", ANGLE, turned(p)).value(turned(q)))


def test_divergences_are_those_of_the_report():
    """Up to the share that is lifted: of distributions without rare bins to 1 %."""
    p, q = histogram(RG, 5, 50.0), histogram(RG, 6, 50.0)
    assert of("jensen_shannon", RG, p).value(q) == pytest.approx(compare.jensen_shannon(p, q), rel=0.01)
    expected = compare.kullback_leibler(p, q)
    assert of("kullback_leibler", RG, p).value(q) == pytest.approx(expected, rel=0.01)


def test_empty_bins_cost_finitely():
    p, q = np.zeros(RG.shape), np.zeros(RG.shape)
    p[4], q[15] = 1.0, 1.0
    for kind in ("jensen_shannon", "kullback_leibler"):
        found = of(kind, RG, p)
        assert np.isfinite(found.value(q)) and np.isfinite(found.slope(q)).all()


def test_contacts_that_are_always_or_never_made_are_left_out():
    g = np.array([0.0, 1.0, 0.3] + [0.5] * 9)
    o = np.array([0.9, 0.1, 0.3] + [0.5] * 9)
    assert of("bernoulli", PAIRS, g).value(o) == pytest.approx(0.0, abs=1e-12)
    o[2] = 0.6
    expected = (0.3 * np.log(0.5) + 0.7 * np.log(0.7 / 0.4)) / 10
    assert of("bernoulli", PAIRS, g).value(o) == pytest.approx(expected, rel=0.01)


def test_at_most_pulls_down_only():
    penalty = Observable("strain", "", (), lambda x: x[0, 0])
    found = of("at_most", penalty, np.asarray(0.2), weight=2.0)
    assert found.value(np.asarray(0.1)) == 0.0 and found.slope(np.asarray(0.1)) == 0.0
    assert found.value(np.asarray(0.5)) == pytest.approx(0.6)


@pytest.mark.parametrize("kind", ["cdf", "jensen_shannon", "mse"])
def test_the_floor_is_the_loss_of_the_reference_against_itself(kind):
    """Halves of one ensemble against each other are 1 on average by what they are divided by."""
    groups = np.stack([histogram(RG, seed, 200.0) for seed in range(6)])
    found = target(RG, estimate_of_means(RG, groups), kind)
    losses = [
        Target(RG, kind, p, np.zeros(RG.shape), found.floor).value(q)
        for p, q in compare.halved(groups, 50, np.random.default_rng(0))
    ]
    assert np.mean(losses) == pytest.approx(1.0)
    np.testing.assert_allclose(found.variance, groups.var(0, ddof=1) / 6)


def test_the_target_of_frames_is_their_prediction_bit_for_bit():
    """Of 64 frames, whose shares are exact: the same bins, overflow and edges, and no loss at all.

    Half of them have a size on an edge of a bin, up to and beyond the last; half a bin more is seen.
    """
    size = np.where(np.arange(64) % 2, RNG.uniform(0.0, 12.0, 64), np.arange(64) * 0.25)
    frames = size[:, None, None] * np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    found = target(RG, estimate(RG, [frames[:32], frames[32:]]), "mse")
    predicted = weighted_mean(np.asarray(RG.of_frames(jnp.asarray(frames))), np.full(64, 1 / 64))
    assert np.array_equal(found.mean, predicted) and found.value(predicted) == 0.0
    half_a_bin_on = frames + 0.25 * np.sign(frames)
    shifted = weighted_mean(np.asarray(RG.of_frames(jnp.asarray(half_a_bin_on))), np.full(64, 1 / 64))
    assert found.value(shifted) > 0.0


BEYOND = np.eye(1, RG.shape[0], RG.shape[0] - 1)


@pytest.mark.parametrize(
    ("observable", "groups", "kind", "told"),
    [
        (RG, BEYOND, "cdf", "100% of it lie outside the grid from 0 to 10 Å"),
        (PAIRS, np.full((1, 12), 0.5), "cdf", "needs a histogram"),
        (PAIRS, np.full((1, 12), np.nan), "mse", "not finite"),
        (PAIRS, np.full((1, 12), 2.0), "bernoulli", "from 0 to 1"),
    ],
)
def test_targets_that_cannot_be_are_refused(observable, groups, kind, told):
    with pytest.raises(ValueError, match=told):
        target(observable, estimate_of_means(observable, groups), kind)
