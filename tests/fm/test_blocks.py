"""Blocks of frames, and standard errors from drawing them again."""

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest

from cgrefine.data.frames import Pieces, frame_set
from cgrefine.fm import blocks
from cgrefine.fm.blocks import add_rows, drawings, drawn, estimate, frame_blocks, interval
from tests.data.domains import flat_domain
from tests.fm.toy import CUTOFF


def test_blocks_are_stretches_of_one_run():
    """Runs of 25 and 7 frames, and one of 12 that is stored in two parts: blocks of at most ten frames."""
    runs = [(320.0, 25, True), (450.0, 7, True), (320.0, 3, False)]
    frames = frame_set([flat_domain(0, runs), flat_domain(1, [(320.0, 12, True)])], True, CUTOFF)
    blocks = frame_blocks(frames).of
    assert [len(list(group)) for _, group in groupby(blocks.tolist())] == [10, 10, 5, 7, 10, 2]
    assert sorted(set(blocks.tolist())) == list(range(6))
    cut = Pieces._make(np.append(column, column[-1]) for column in frames.pieces)
    cut.count[-2:], cut.start[-1] = (5, 7), 5
    assert np.array_equal(frame_blocks(replace(frames, pieces=cut)).of, blocks)


def test_blocks_know_their_domain_and_temperature():
    runs = [(320.0, 25, True), (450.0, 7, True)]
    found = frame_blocks(frame_set([flat_domain(0, runs), flat_domain(1, runs[:1])], True, CUTOFF))
    assert found.domain.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert found.temperature_K.tolist() == [320.0] * 3 + [450.0] + [320.0] * 3


def test_blocks_grow_with_the_data(monkeypatch):
    """At most so many blocks, but each run has one: memory is bounded by runs, not frames."""
    runs = [(320.0, 25, True), (450.0, 7, True)]
    frames = frame_set([flat_domain(0, runs), flat_domain(1, runs[:1])], True, CUTOFF)
    for most, lengths in ((6, [20, 5, 7, 20, 5]), (4, [25, 7, 25]), (1, [25, 7, 25])):
        monkeypatch.setattr(blocks, "MOST_BLOCKS", most)
        assert np.bincount(frame_blocks(frames).of).tolist() == lengths


def test_standard_error_of_a_mean():
    """That of n independent numbers is sd/√n; 500 drawings know it to 1/√1000, here 4 times that."""
    values = np.random.default_rng(1).exponential(2.0, 400)
    counts = drawings(400, np.random.default_rng(2))
    found = estimate(drawn(counts, values) / counts.sum(1))
    assert found.value == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(values.std() / np.sqrt(400), rel=4 / np.sqrt(1000))


def test_one_block_has_no_standard_error():
    counts = drawings(1, np.random.default_rng(0))
    found = estimate(drawn(counts, np.array([3.0])))
    assert found.value == 3.0 and np.isnan(found.stderr)


def test_drawings_without_the_kind_are_left_out():
    assert estimate(np.array([1.0, 2.0, 4.0, np.nan])) == (1.0, 1.0)
    assert np.isnan(estimate(np.array([1.0, 2.0, np.nan, np.nan])).stderr)


def test_interval_leaves_out_the_value_itself():
    assert interval(np.array([1e9, *np.linspace(0.0, 1.0, 101)]), 0.9) == pytest.approx((0.05, 0.95))


def test_rows_are_added_by_index():
    into = np.ones((4, 2))
    add_rows(into, np.array([2, 0, 2]), np.array([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]]))
    assert into.tolist() == [[4.0, 5.0], [1.0, 1.0], [12.0, 23.0], [1.0, 1.0]]
