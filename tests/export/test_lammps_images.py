"""Chains in a periodic box, placed where they meet; against nearest images counted pair by pair."""

import numpy as np
import pytest

from cgrefine.errors import InputError
from cgrefine.export.lammps_images import ImageError, Placing, check_box

BOX = np.array([30.0, 40.0, np.inf])
CHAINS = np.repeat([0, 1, 2], 4)


def three_chains(seed=2):
    """Rods of four beads, 3 Å apart from each other, in one image."""
    rng = np.random.default_rng(seed)
    rod = 3.8 * np.arange(4)[:, None] * np.array([0.0, 1.0, 0.0])
    places = rng.normal(scale=0.1, size=(3, 3)) + 5.0 * np.arange(3)[:, None] * np.array([1.0, 0.0, 0.0])
    return np.concatenate([rod + place for place in places])


def nearest(x, lengths):
    """Distances of all pairs at their nearest images."""
    apart = x[:, None] - x[None]
    periodic = np.isfinite(lengths)
    apart[..., periodic] -= lengths[periodic] * np.round(apart[..., periodic] / lengths[periodic])
    return np.linalg.norm(apart, axis=-1)


def direct(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def test_chains_that_meet_across_the_box_are_brought_together():
    """Each chain is moved by boxes of its own; the second call finds them already together."""
    x = three_chains()
    apart = x + (np.array([[0, 0, 0], [2, -1, 0], [-3, 4, 0]]) * [30.0, 40.0, 0.0])[CHAINS]
    place = Placing(CHAINS, 10.0)
    for _ in range(2):
        placed = place(apart, BOX)
        near = nearest(apart, BOX) < 10.0
        assert np.allclose(direct(placed)[near], nearest(apart, BOX)[near], atol=1e-9)
        assert np.array_equal(direct(placed) < 10.0, near)
        for k in range(3):
            shape = placed[k == CHAINS] - x[k == CHAINS]
            assert np.allclose(shape, shape[0], atol=1e-9)


def test_chains_out_of_reach_stay():
    x = three_chains()
    x[CHAINS == 2, 1] += 19.0
    assert np.array_equal(Placing(CHAINS, 3.0)(x, BOX), x)


def test_a_free_direction_has_no_images():
    x = three_chains()
    x[CHAINS == 1, 2] += 500.0
    assert np.array_equal(Placing(CHAINS, 10.0)(x, BOX), x)


def test_a_chain_that_meets_itself_is_told():
    """A rod of 27 Å in a box of 30 Å: its ends are 3 Å apart across the face."""
    x = np.arange(10)[:, None] * np.array([3.0, 0.0, 0.0])
    with pytest.raises(ImageError, match="own periodic image within 10 Å"):
        Placing(np.zeros(10, int), 10.0)(x, BOX)


def test_a_ring_of_chains_through_the_box_is_told():
    """Three chains 10 Å apart in a box of 30 Å: each meets the next, and the last the first."""
    x = np.array([[0.0, 0, 0], [10.0, 0, 0], [20.0, 0, 0]])
    with pytest.raises(ImageError):
        Placing(np.arange(3), 11.0)(x, BOX)


def test_a_cutoff_beyond_half_the_box_is_refused():
    check_box(BOX, 15.0)
    with pytest.raises(
        InputError, match=r"cutoff of 15\.5 Å is larger than half of the periodic box of 30 x 40"
    ):
        check_box(BOX, 15.5)
