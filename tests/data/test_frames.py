"""Choosing frames: the split, stride, temperatures, and weights that thin or repeat."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrefine.data.frames import Pieces, Rows, frame_set, mean_neighbors, sampled_sizes
from cgrefine.errors import InputError
from cgrefine.neighbors import frame_edges
from tests.data.domains import domain, flat_domain

RUNS = [(320.0, 10, False), (450.0, 7, False), (320.0, 5, True), (413.0, 1, False)]


def chosen(frames, rows=None):
    rows = frames.each_once if rows is None else rows
    return [rows.where(row) for row in range(len(rows))]


def test_each_frame_of_the_part_once():
    domains = [flat_domain(s, RUNS) for s in range(3)]
    training, validation = (frame_set(domains, held, 8.0) for held in (False, True))
    for frames, held in ((training, False), (validation, True)):
        expected = [(d, f) for d in range(3) for f in np.flatnonzero(domains[d].validation == held).tolist()]
        assert chosen(frames) == expected and len(frames) == len(expected)
        assert frames.total_beads == 3 * len(expected)
    assert chosen(training, training.epoch(3, 1)) == chosen(training)
    assert training.positions(20)[0, 0] == domains[1].positions[training.each_once.where(20)[1]][0, 0]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([320.0, 413.0, 450.0]), st.integers(1, 9), st.booleans()), min_size=1),
    st.integers(1, 5),
    st.booleans(),
)
def test_stride_and_part_against_a_table(runs, stride, held):
    frames = frame_set([flat_domain(0, runs)], held, 8.0, stride)
    table, start = [], 0
    segments = flat_domain(0, runs).segments
    for start, count, part in zip(segments.start, segments.count, segments.validation, strict=True):
        table += [(0, int(f)) for f in range(start, start + count, stride) if part == held]
    assert chosen(frames) == table


def test_temperatures():
    frames = frame_set([flat_domain(0, RUNS)], False, 8.0, temperatures_K=[450.2, 413.0])
    assert [f for _, f in chosen(frames)] == [*range(10, 17), 22]
    with pytest.raises(InputError, match="no frame is at 348 K; the data set has 320, 413, 450 K"):
        frame_set([flat_domain(0, RUNS)], False, 8.0, temperatures_K=[348.0])
    with pytest.raises(InputError, match="no frame is at 300 K"):
        frame_set([flat_domain(0, RUNS)], False, 8.0, temperature_weights={300.0: 2.0})


def test_whole_weights_repeat_each_frame():
    frames = frame_set([flat_domain(0, RUNS)], False, 8.0, temperature_weights={450.0: 3.0})
    for epoch in range(3):
        rows = chosen(frames, frames.epoch(0, epoch))
        assert Counter(f for _, f in rows) == {f: 3 if 10 <= f < 17 else 1 for f in (*range(17), 22)}


@settings(deadline=None, max_examples=60)
@given(st.floats(0.05, 4.0), st.integers(1, 40), st.integers(0, 10**6))
def test_weights_thin_and_repeat_evenly(weight, count, seed):
    """Frames of a piece are taken floor or ceil of `weight` times, and in all count · weight ± 1."""
    frames = frame_set([flat_domain(0, [(320.0, count, False)])], False, 8.0, 1, None, {320.0: weight})
    rows = frames.epoch(seed, 1)
    taken = [f for _, f in chosen(frames, rows)]
    assert abs(len(taken) - count * weight) < 1
    assert taken == sorted(taken) and (not taken or (taken[0] >= 0 and taken[-1] < count))
    times = Counter(taken)
    assert all(np.floor(weight) <= times[f] <= np.ceil(weight) for f in range(count))


def test_weights_are_right_on_average():
    """Weight 0.3 of 7 frames over 4,000 epochs: 2.1 each epoch and 0.3 each frame, to four standard errors.

    Rows of an epoch are 2 or 3 (variance 0.09); a frame is there or not (variance 0.21).
    """
    frames = frame_set([flat_domain(0, [(320.0, 7, False)])], False, 8.0, 1, None, {320.0: 0.3})
    epochs = [[f for _, f in chosen(frames, frames.epoch(5, e))] for e in range(4000)]
    lengths = [len(taken) for taken in epochs]
    assert abs(np.mean(lengths) - 2.1) < 4 * np.sqrt(0.09 / 4000)
    share = np.bincount(np.concatenate(epochs).astype(int), minlength=7) / 4000
    assert np.all(np.abs(share - 0.3) < 4 * np.sqrt(0.21 / 4000))
    assert epochs[:20] == [[f for _, f in chosen(frames, frames.epoch(5, e))] for e in range(20)]


def test_sixty_million_frames_need_no_table():
    """As many runs as mdCATH has: rows are found by their place in 134,950 counts."""
    p, count = 134_950, 450
    column = np.ones(p)
    pieces = Pieces(np.arange(p) // 25, np.arange(p) % 25 * count, np.full(p, count), column, column, column)
    rows = Rows(pieces, 1, np.zeros(p))
    assert len(rows) == 60_727_500
    assert rows.where(0) == (0, 0) and rows.where(60_727_499) == (5397, 25 * count - 1)
    assert rows.where(123_456_78) == divmod(123_456_78, 25 * count)


def test_sizes_and_neighbours():
    frames = frame_set([domain(n, 8, seed) for seed, n in enumerate((5, 9, 17))], False, 10.0)
    beads, edges = sampled_sizes(frames, 1000)
    assert beads.tolist() == [5] * 6 + [9] * 6 + [17] * 6
    assert edges.tolist() == [len(frame_edges(frames.positions(row), 10.0)[0]) for row in range(18)]
    assert len(sampled_sizes(frames, 7)[0]) == 7
    assert mean_neighbors(frames, 10.0) == pytest.approx(edges.sum() / beads.sum())
    assert mean_neighbors(frames, 5.0) < mean_neighbors(frames, 10.0)
