"""Which frames of a window count, in which order, and what they are worth at other parameters."""

import numpy as np
import pytest

from cgrefine.boltzmann.samples import Choice, Pooled, Sample, pooled, sample_of, worth
from cgrefine.boltzmann.weights import boltzmann_weights, mixture_weights
from cgrefine.status import Status
from tests.boltzmann.windows import MARK, molecules, window

MOLECULES = molecules((2, 3), (3, 2))
BEADS, FRAMES = 12, 6
ALIVE = [FRAMES, 4, 1, 0, 5]
FAILED = 80


def told(sample):
    """(replica, frame or FAILED, share) of each frame, whose beads are all from the same one."""
    frame = sample.positions // MARK
    assert np.ptp(frame.reshape(len(frame), -1), axis=1).max(initial=0.0) == 0.0
    return list(zip(sample.replica.tolist(), frame[:, 0, 0].astype(int).tolist(), sample.share, strict=True))


def taken(molecule, choice, **kwargs):
    return sample_of(MOLECULES[molecule], window(ALIVE, BEADS, FRAMES, **kwargs), choice)


@pytest.mark.parametrize(
    ("burn_in", "guard", "expected"),
    [
        (0, 0, [(0, range(6)), (1, range(4)), (2, range(1))]),
        (2, 0, [(0, range(2, 6)), (1, range(2, 4))]),
        (1, 2, [(0, range(1, 6)), (1, range(1, 2))]),
        (1, 5, [(0, range(1, 6))]),
    ],
)
def test_frames_after_the_burn_in_and_before_the_guard_count_once(burn_in, guard, expected):
    """A guard before failures only, and no frame after one: replicas of 6, 4 and 1 frames of 6."""
    found = taken(0, Choice(burn_in, guard, 0.0))
    assert told(found) == [(r, f, 1.0) for r, frames in expected for f in frames]
    beads = found.positions % MARK
    np.testing.assert_array_equal(beads[:, :, 0], 2 * found.replica[:, None] + np.arange(2))


def test_states_that_failed_are_the_last_of_their_replica_with_their_share():
    """Of the second molecule one failed at once, the other after five frames: beads 6 to 8 and 9 to 11."""
    found = taken(1, Choice(3, 1, 2.5))
    assert told(found) == [(0, FAILED, 2.5), (1, 3, 1.0), (1, FAILED, 2.5)]
    np.testing.assert_array_equal(found.positions[1:, :, 0] % MARK, [[9, 10, 11]] * 2)
    assert found.positions.dtype == np.float32


def test_states_that_say_nothing_are_no_negatives():
    """Neither failures that are not finite, nor positions that are not, whatever the status."""
    choice = Choice(0, 0, 1.0)
    assert (1, FAILED, 1.0) in told(taken(0, choice))
    assert all(frame != FAILED for _, frame, _ in told(taken(0, choice, status=Status.NON_FINITE)))
    broken = window(ALIVE, BEADS, FRAMES)
    broken.failed[2] = np.nan
    assert [row for row in told(sample_of(MOLECULES[0], broken, choice)) if row[1] == FAILED] == [
        (2, FAILED, 1.0)
    ]


def test_a_molecule_of_which_nothing_is_left_has_no_frames():
    lost = window([0] * 5, BEADS, FRAMES, status=Status.NON_FINITE)
    found = sample_of(MOLECULES[1], lost, Choice(0, 0, 1.0))
    assert [part.shape for part in found] == [(0, 3, 3), (0,), (0,)]


def coordinates(x):
    return x[:, 0, :1].astype(np.float64)


def harmonic(k, centre=0.0):
    return lambda x: 0.5 * k * (coordinates(x)[:, 0] - centre) ** 2


def drawn(k, count, seed, replicas=3, share=1.0):
    """Frames of one bead in U/kT = ½ k x²."""
    x = np.random.default_rng(seed).normal(size=(count, 1, 3)) / np.sqrt(k)
    replica = np.sort(np.arange(count) % replicas)
    return Sample(x.astype(np.float32), np.full(count, share), replica)


def test_pooled_frames_stay_in_order_of_time_within_replicas():
    choice = Choice(4, 0, 2.5)
    one, other = taken(0, choice), sample_of(MOLECULES[0], window([5] * 5, BEADS, FRAMES, failed=81), choice)
    energies = [lambda x: x[:, 0, 0] + 1.0, lambda x: x[:, 0, 0] + 2.0]
    found = pooled([one, other], coordinates, energies)
    frames = [(r, f) for r, f, _ in told(found.sample)]
    assert frames == [(0, 4), (0, 5), (0, 4), (0, 81), (1, 80), (1, 4), (1, 81), (2, 80), (2, 4), (2, 81)]
    assert found.sample.share.tolist() == [2.5 if f >= FAILED else 1.0 for _, f in frames]
    assert found.counts.tolist() == [4, 6]
    np.testing.assert_array_equal(found.values, coordinates(found.sample.positions))
    np.testing.assert_array_equal(found.reduced, found.values[:, 0] + [[1.0], [2.0]])


def test_at_their_own_parameters_frames_are_worth_their_shares():
    sample = drawn(2.0, 40, 0)._replace(share=np.where(np.arange(40) % 4 == 0, 3.0, 1.0))
    frames = pooled([sample], coordinates, [harmonic(2.0)])
    found = worth(frames, frames.reduced[0])
    np.testing.assert_allclose(found.weights, sample.share / 60.0, rtol=1e-12)
    assert (found.kish, found.entropy) == pytest.approx((1.0, 1.0))
    assert found.spread == 0.0


def test_one_window_is_reweighted_by_the_change_of_energy_and_by_shares():
    sample = drawn(2.0, 50, 1)._replace(share=np.linspace(0.5, 2.0, 50))
    frames = pooled([sample], coordinates, [harmonic(2.0)])
    now = harmonic(3.0)(frames.sample.positions)
    found = worth(frames, now)
    p = boltzmann_weights(now - frames.reduced[0])
    np.testing.assert_allclose(found.weights, p * sample.share / np.sum(p * sample.share), rtol=1e-12)
    assert found.kish == pytest.approx(1.0 / np.sum(p**2) / 50)
    assert found.entropy == pytest.approx(np.exp(-np.sum(p * np.log(p))) / 50)
    assert found.spread == pytest.approx(np.std(now - frames.reduced[0]))
    np.testing.assert_allclose(worth(frames, now + 1e4).weights, found.weights, rtol=1e-9)


def test_two_windows_are_a_mixture_and_spread_counts_from_the_newest():
    """U/kT of ½x² and of ½ · 2 (x - 0.4)²: the mean at a third energy within four errors of its own."""
    k, centre, count = (1.0, 2.0), (0.0, 0.4), 4000
    samples = [drawn(k[0], count, 2), drawn(k[1], count // 2, 3)]
    samples[1] = samples[1]._replace(positions=samples[1].positions + np.float32(centre[1]))
    frames = pooled(samples, coordinates, [harmonic(k[i], centre[i]) for i in (0, 1)])
    now = harmonic(1.5, 0.3)(frames.sample.positions)
    found = worth(frames, now)
    np.testing.assert_allclose(found.weights, mixture_weights(frames.reduced, now, frames.counts), rtol=1e-9)
    assert found.spread == pytest.approx(np.std(now - frames.reduced[1]))
    x = frames.values[:, 0]
    error = np.sqrt(np.sum((found.weights * (x - 0.3)) ** 2))
    assert abs(found.weights @ x - 0.3) < 4.0 * error < 0.1


def test_a_window_without_frames_changes_nothing():
    full, none = drawn(2.0, 30, 4), drawn(2.0, 0, 5)
    alone = pooled([full], coordinates, [harmonic(2.0)])
    both = pooled([none, full], coordinates, [harmonic(1.0), harmonic(2.0)])
    now = harmonic(2.5)(full.positions)
    np.testing.assert_allclose(worth(both, now).weights, worth(alone, now).weights, rtol=1e-9)
    nothing = pooled([none, none], coordinates, [harmonic(1.0), harmonic(2.0)])
    assert isinstance(nothing, Pooled) and nothing.reduced.shape == (2, 0) and nothing.values.shape == (0, 1)


def test_energies_that_are_not_finite_are_refused():
    frames = pooled([drawn(2.0, 5, 6)], coordinates, [harmonic(2.0)])
    with pytest.raises(ValueError, match="not finite"):
        worth(frames, np.array([0.0, 1.0, np.nan, 0.0, 0.0]))
