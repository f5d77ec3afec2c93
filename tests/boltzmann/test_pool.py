"""Where replicas begin the next window: frames, starts and earlier states are told apart by their numbers."""

import math

import numpy as np
import pytest

from cgrefine.boltzmann.pool import Pool, Rules, after, pool_of
from tests.boltzmann.windows import MARK, marked, molecules, window

MOLECULES = molecules((2, 3), (3, 2))
"""Replicas 0 to 2 of two beads, and 3 and 4 of three."""
BEADS, FRAMES, DEPTH = 12, 6, 4
START, EARLIER, ENDS = 70, 50, 90
GO_ON = Rules(earlier_fraction=0.0, guard_frames=0, random_reset=0.0)


def pool(kept=(1, 2, 4, 3, 4)):
    return Pool(marked(START, BEADS), marked(EARLIER + np.arange(DEPTH), BEADS), np.array(kept, np.int32))


def sources(x, among=MOLECULES):
    """Where the beads of each replica are from: all of a replica from one place, and each its own."""
    found = []
    for molecule in among:
        for rows in molecule.by_replica(x):
            (source,) = np.unique(rows // MARK)
            found.append(int(source))
    np.testing.assert_array_equal(np.moveaxis(x % MARK, -2, -1)[..., 0, :], np.arange(x.shape[-2]))
    return found


def advanced(state, alive, rules, seed=0, among=MOLECULES):
    beads = among[-1].beads.stop
    return after(state, window(alive, beads, FRAMES), among, rules, np.random.default_rng(seed))


def test_replicas_begin_with_their_start_alone():
    begun = pool_of(marked(START, BEADS).astype(np.float64), 5, DEPTH)
    np.testing.assert_array_equal(begun.kept, np.ones(5))
    assert begun.positions.dtype == np.float32
    assert [sources(rows) for rows in begun.earlier] == [[START] * 5] * DEPTH


def test_survivors_go_on_and_the_starts_of_their_windows_are_kept_the_newest_first():
    state = pool_of(marked(START, BEADS), 5, DEPTH)
    for number in range(6):
        survived, _ = advanced(state, [FRAMES] * 5, GO_ON)
        assert sources(survived.positions) == [ENDS] * 5
        np.testing.assert_array_equal(survived.kept, np.full(5, min(number + 2, DEPTH)))
        assert sources(survived.earlier[0]) == sources(state.positions)
        assert [sources(rows) for rows in survived.earlier[1:]] == [
            sources(rows) for rows in state.earlier[:-1]
        ]
        state = survived._replace(positions=marked(number, BEADS))


@pytest.mark.parametrize(
    ("guard", "expected"),
    [(0, [ENDS, 4, 0, START, 2]), (1, [ENDS, 3, START, START, 1]), (4, [ENDS, 0] + [START] * 3)],
)
def test_a_failed_replica_goes_back_by_the_guard(guard, expected):
    """Frames 0, ... of a replica that lived for 5, 1, 0 and 3 of 6 frames: the last, less the guard."""
    before = pool()
    found, sent = advanced(before, [FRAMES, 5, 1, 0, 3], Rules(0.0, guard, 0.0))
    assert sources(found.positions) == expected
    assert sent == 0
    np.testing.assert_array_equal(found.kept, [2, 2, 4, 3, 4])
    for rows, old, newer in zip(
        found.earlier, before.earlier, [before.positions, *before.earlier], strict=False
    ):
        assert sources(rows)[1:] == sources(old)[1:]
        assert sources(rows)[0] == sources(newer)[0]


def test_or_to_an_earlier_state_of_its_own():
    """Over many draws each of those that it has kept, and no other."""
    seen = [set() for _ in range(5)]
    for seed in range(100):
        found, _ = advanced(pool(), [FRAMES, 5, 1, 0, 3], Rules(1.0, 0, 0.0), seed)
        for mine, source in zip(seen, sources(found.positions), strict=True):
            mine.add(source)
    assert seen[0] == {ENDS}
    kept = [2, 4, 3, 4]
    assert seen[1:] == [set(range(EARLIER, EARLIER + count)) for count in kept]


@pytest.mark.parametrize(("earlier", "reset"), [(0.5, 0.05), (0.2, 0.4)])
def test_shares_of_those_that_go_back(earlier, reset):
    """Of 2000 healthy replicas and 2000 failed ones, within four standard errors (6e-5 each)."""
    many = 2000
    among = molecules((1, 2 * many))
    state = pool_of(marked(START, 2 * many), 2 * many, 2)
    state = state._replace(earlier=marked([EARLIER, EARLIER + 1], 2 * many))
    alive = np.where(np.arange(2 * many) % 2 == 0, FRAMES, 3)
    found, sent = advanced(state, alive, Rules(earlier, 0, reset), among=among)
    place = np.array(sources(found.positions, among))
    healthy, failed = place[::2], place[1::2]
    assert set(healthy) == {ENDS, EARLIER} and set(failed) == {2, EARLIER}
    assert sent == np.sum(healthy == EARLIER)
    for share, expected in ((np.mean(healthy == EARLIER), reset), (np.mean(failed == EARLIER), earlier)):
        assert abs(share - expected) < 4.0 * math.sqrt(expected * (1.0 - expected) / many)
    np.testing.assert_array_equal(found.kept, np.where(alive == FRAMES, 2, 1))


def test_the_same_numbers_give_the_same_pool():
    rules = Rules(0.5, 1, 0.3)
    one, again, other = (advanced(pool(), [FRAMES, 5, 1, 6, 3], rules, seed)[0] for seed in (3, 3, 5))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert sources(one.positions) != sources(other.positions)
