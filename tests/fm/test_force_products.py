"""Products of forces by kind of bead, against numbers written out."""

import numpy as np
import pytest

from cgrefine.fm.force_products import KINDS, Products, _add_kinds, _Beads, add_products, square
from cgrefine.fm.local_frames import chain_positions, triads
from tests.chains import chain_from_internal
from tests.fm.test_local_frames import rotation


def kinds(x: np.ndarray, three: np.ndarray, block: np.ndarray) -> dict[str, Products]:
    """Products of one chain of alanines, two blocks."""
    n = len(x)
    into = {name: Products(np.zeros((2, k, 3, 3)), np.zeros((2, k))) for name, k in KINDS.items()}
    beads = _Beads(np.zeros(n, int), np.zeros(n, int), chain_positions(n, ()), triads(n, ()), x)
    _add_kinds(into, block, beads, three)
    return into


def test_square_is_that_of_the_combination():
    u = np.random.default_rng(0).normal(size=(3, 7, 3))
    sums = Products(np.zeros((2, 3, 3)), np.zeros(2))
    block = np.array([0, 0, 1, 1, 1, 0, 0])
    add_products(sums, block, u)
    error = u[0] - 2.0 * u[1] + 0.5 * u[2]
    expected = [float((error[block == b] ** 2).sum()) for b in (0, 1)]
    assert square(sums.p, np.array([1.0, -2.0, 0.5])) == pytest.approx(expected)
    assert sums.components.tolist() == [12.0, 9.0]


def test_local_axes_see_the_direction():
    """A flat zigzag, turned anyhow: forces normal to its plane are all on the third axis, those along it on
    the first, at every bead."""
    q = rotation(8)
    flat = chain_from_internal(np.full(7, 3.8), np.full(6, 1.7), np.full(5, np.pi))
    along = flat[2] - flat[0]
    along /= np.linalg.norm(along)
    normal = np.array([0.0, 0.0, 1.0])
    three = np.stack([np.tile(2.0 * normal, (8, 1)), np.tile(3.0 * along, (8, 1)), np.zeros((8, 3))]) @ q.T
    found = kinds(flat @ q.T + 4.0, three, np.zeros(8, int))["axis"].p[0]
    assert found[:, 0, 0] == pytest.approx([0.0, 0.0, 4.0 * 8], abs=1e-9)
    assert found[:, 1, 1] == pytest.approx([9.0 * 8, 0.0, 0.0], abs=1e-9)


def test_kinds_are_sorted_by_block_and_label():
    rng = np.random.default_rng(1)
    x, three = np.cumsum(rng.normal(size=(8, 3)), axis=0), rng.normal(size=(3, 8, 3))
    block = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    found = kinds(x, three, block)
    reference = three[0]
    assert found["position"].p[0, 1, 0, 0] == pytest.approx(float((reference[1] ** 2).sum()))
    assert found["position"].p[1, 1, 0, 0] == 0.0
    inside = float((reference[3:5] * three[1, 3:5]).sum())
    assert found["position"].p[1, 3, 0, 1] == pytest.approx(inside)
    assert found["component"].p[1, 2, 0, 0] == pytest.approx(float((reference[3:, 2] ** 2).sum()))
    assert found["component"].components.tolist() == [[3.0] * 3, [5.0] * 3]
    assert found["residue"].p[0, 0, 0, 0] == pytest.approx(float((reference[:3] ** 2).sum()))
    assert not found["residue"].p[:, 1:].any()
