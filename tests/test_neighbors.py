"""Edges of a frame on the host: those of a direct sum in float64, and of a cell list (vesin)."""

import numpy as np
import pytest
import vesin
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrefine import neighbors
from cgrefine.neighbors import frame_edges
from tests.chains import random_chain

FAR = np.array([800.0, -300.0, 20.0])


def direct(positions, cutoff_A):
    x = np.asarray(positions, np.float64)
    dx, dy, dz = (x[:, None, c] - x[None, :, c] for c in range(3))
    squared = dx * dx + dy * dy + dz * dz
    np.fill_diagonal(squared, np.inf)
    return np.stack(np.nonzero(squared < cutoff_A**2))


@pytest.mark.parametrize("n", [0, 1, 2, 30, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges_are_those_of_a_direct_sum(n, dtype):
    """Also far from the origin, and in several blocks of rows (300² pairs)."""
    x = (random_chain(n, 3) + FAR).astype(dtype)
    for cutoff in (4.0, 9.0, 50.0):
        senders, receivers = frame_edges(x, cutoff)
        assert np.array_equal(np.stack([senders, receivers]), direct(x, cutoff))
        assert senders.dtype == receivers.dtype == np.int32


def test_edges_are_those_of_a_cell_list():
    x = random_chain(200, 5)
    calculator = vesin.NeighborList(cutoff=12.0, full_list=True, sorted=True)
    i, j = calculator.compute(points=x, box=np.zeros((3, 3)), periodic=False, quantities="ij")
    order = np.lexsort((j, i))
    assert np.array_equal(np.stack(frame_edges(x, 12.0)), np.stack([i[order], j[order]]))


def test_the_cutoff_is_strict():
    """Cubic grid, spacing 4 Å: pairs at the cutoff are none, pairs a hair inside are 600, all by float64."""
    grid = np.stack(np.meshgrid(*[4.0 * np.arange(5)] * 3), -1).reshape(-1, 3) + FAR
    assert [len(frame_edges(grid, cutoff)[0]) for cutoff in (4.0, 4.0000001)] == [0, 600]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.sampled_from([1.0, 30.0, 1e3, 1e5]))
def test_pairs_near_the_cutoff_are_decided_exactly(seed, n, spread):
    """Grid points, where many pairs are at or within rounding of the cutoff, at any distance."""
    rng = np.random.default_rng(seed)
    x = np.rint(rng.uniform(-3, 3, (n, 3))).astype(np.float32) + np.float32(spread) * rng.integers(
        0, 2, (n, 1)
    )
    for cutoff in (2.0, float(np.sqrt(np.float32(5))), 3.0, float(np.nextafter(3.0, 4))):
        assert np.array_equal(np.stack(frame_edges(x, cutoff)), direct(x, cutoff))


def test_a_position_that_is_not_finite_is_an_error():
    x = np.zeros((4, 3))
    x[2, 1] = np.nan
    with pytest.raises(ValueError, match="not all finite"):
        frame_edges(x, 5.0)


def test_blocks_of_one_row(monkeypatch):
    monkeypatch.setattr(neighbors, "_BLOCK_PAIRS", 1)
    x = random_chain(40, 2)
    assert np.array_equal(np.stack(frame_edges(x, 9.0)), direct(x, 9.0))
