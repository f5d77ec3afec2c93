"""Weights of frames against closed forms."""

import numpy as np
import pytest

from cgrefine.boltzmann.weights import (
    boltzmann_weights,
    entropy_size,
    kish_size,
    mixture_weights,
    reduced_spread,
    uniform_weights,
)


def test_weights_are_those_of_the_ratio_of_densities():
    """Four states, energies changed by 0, 1, 2 and ln 2 kT; one of them does not count and holds NaN."""
    p = boltzmann_weights(np.array([0.0, 1.0, np.nan, np.log(2.0)]), np.array([True, True, False, True]))
    expected = np.array([1.0, np.exp(-1.0), 0.0, 0.5])
    np.testing.assert_allclose(p, expected / expected.sum(), rtol=1e-14)


def test_a_constant_of_a_hundred_thousand_kT_changes_no_weight():
    change = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(boltzmann_weights(change + 1e5), boltzmann_weights(change), rtol=1e-10)


def test_sizes_of_equal_weights_are_their_number_and_of_a_single_one_one():
    even, single = uniform_weights(np.arange(10) < 7), boltzmann_weights(np.array([0.0, 1e4, 1e4]))
    for size in (kish_size, entropy_size):
        assert size(even) == pytest.approx(7.0, rel=1e-12) and size(single) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("s", [0.32, 0.59, 0.83])
def test_sizes_under_a_gaussian_change(s):
    """Kish exp(-s²), entropy exp(-s²/2), the spread s itself: a million frames, to 1 %."""
    change = np.random.default_rng(1).normal(0.0, s, 1_000_000)
    p = boltzmann_weights(change)
    assert kish_size(p) / 1e6 == pytest.approx(np.exp(-(s**2)), rel=0.01)
    assert entropy_size(p) / 1e6 == pytest.approx(np.exp(-(s**2) / 2), rel=0.01)
    assert reduced_spread(change, np.full(1_000_000, 1e-6)) == pytest.approx(s, rel=0.01)


def test_spread_leaves_out_what_has_no_weight():
    assert reduced_spread(np.array([1.0, -1.0, np.nan]), np.array([0.5, 0.5, 0.0])) == pytest.approx(1.0)


def test_nothing_to_weigh_is_refused():
    with pytest.raises(ValueError, match="no frame is left"):
        boltzmann_weights(np.zeros(3), np.zeros(3, bool))
    with pytest.raises(ValueError, match="not finite"):
        boltzmann_weights(np.array([0.0, np.inf]))


def pooled(rng, widths, count):
    """Normal samples of widths σ_k, with the reduced energies x²/2σ² of every source at all of them."""
    x = np.concatenate([rng.normal(0.0, w, count) for w in widths])
    return x, np.stack([0.5 * (x / w) ** 2 for w in widths])


def test_frames_of_two_sources_give_the_mean_of_a_third():
    """⟨x²⟩ = 1.2² from samples of widths 1 and 1.5; within three standard errors over 40 repeats."""
    found = []
    for seed in range(40):
        x, reduced = pooled(np.random.default_rng(seed), (1.0, 1.5), 1000)
        p = mixture_weights(reduced, 0.5 * (x / 1.2) ** 2, np.array([1000, 1000]))
        found.append(np.sum(p * x**2))
    assert abs(np.mean(found) - 1.44) < 3 * np.std(found) / np.sqrt(40)


def test_one_source_is_plain_reweighting():
    x, reduced = pooled(np.random.default_rng(3), (1.0,), 100)
    p = mixture_weights(reduced, 0.4 * x**2, np.array([100]))
    np.testing.assert_allclose(p, boltzmann_weights(0.4 * x**2 - reduced[0]), rtol=1e-9)
