"""Which frames count as valid, and work on blocks in threads."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrefine.data.source import in_threads, valid_frames

LIMIT = 100.0
ODD = (0.0, 99.0, -100.0, 100.1, 1e-30, 1e30, -3e38, np.nan, np.inf, -np.inf)


def by_definition(coords, forces):
    """The rule, frame by frame and atom by atom."""
    good = []
    for x, f in zip(coords, forces, strict=True):
        at_origin = sum((row == 0.0).all() for row in x)
        good.append(
            bool(
                np.isfinite(x).all()
                and np.isfinite(f).all()
                and (np.abs(x) <= LIMIT).all()
                and at_origin < 2
                and (f != 0.0).any()
            )
        )
    return good


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_valid_frames_are_those_of_the_definition(data):
    """Random frames with odd numbers put in at random places; atoms at the origin are written as +0."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x, f = rng.uniform(-90, 90, (2, 4, 12, 3)).astype(np.float32)
    for values in (x, f):
        for _ in range(data.draw(st.integers(0, 3))):
            place = tuple(data.draw(st.integers(0, n - 1)) for n in values.shape)
            values[place] = data.draw(st.sampled_from(ODD))
    for values in (x, f):
        frame = data.draw(st.integers(0, 3))
        values[frame, data.draw(st.integers(0, 12)) :] = 0.0
    assert valid_frames(x, f, LIMIT).tolist() == by_definition(x, f)


def test_many_atoms_near_the_limit_are_valid():
    """The sum of squares exceeds the squared limit, no coordinate does."""
    x = np.full((1, 50, 3), 99.9, np.float32)
    assert valid_frames(x, np.ones_like(x), LIMIT).tolist() == [True]


def test_threads_keep_the_order_and_end():
    before = threading.active_count()
    assert list(in_threads(lambda n: n * n, range(50))) == [n * n for n in range(50)]
    assert threading.active_count() == before


def test_what_went_wrong_comes_up_at_its_place():
    def work(n):
        if n == 3:
            raise OSError("disk")
        return n

    found = in_threads(work, range(9))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="disk"):
        next(found)


def test_work_ahead_is_bounded_and_can_be_left():
    """Of endless work, no more is begun than the threads and one more can hold."""
    before, begun = threading.active_count(), []
    for item in in_threads(lambda n: begun.append(n) or n, itertools.count(), threads=2):
        if item == 5:
            break
    assert threading.active_count() == before
    assert max(begun) <= 5 + 3
