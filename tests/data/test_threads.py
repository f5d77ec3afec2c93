"""Work in threads: order, exceptions, bounds."""

import itertools
import threading

import pytest

from cgrefine.data.threads import in_threads


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
