"""Local axes of a chain, positions in it, and shapes that do not depend on where a molecule is."""

import numpy as np
import pytest

from cgrefine.fm.local_frames import (
    POSITIONS,
    chain_positions,
    local_axes,
    surroundings,
    triads,
)
from tests.chains import chain_from_internal, random_chain


def rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def test_axes_of_a_bend_in_the_plane():
    """i (-1, 0, 0), j (0, 2, 0), k (1, 0, 0): along x, into the bend -y, and x × -y = -z."""
    x = np.array([[-1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
    axes, known = local_axes(x, triads(3, ()))
    assert known.all()
    for bead in range(3):
        assert axes[bead] == pytest.approx(np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1]]), abs=1e-12)


def test_axes_are_a_rotation_and_turn_with_the_molecule():
    x, q = random_chain(9, 3), rotation(4)
    triad = triads(9, ())
    axes, known = local_axes(x, triad)
    assert known.all()
    assert axes @ np.swapaxes(axes, -1, -2) == pytest.approx(np.tile(np.eye(3), (9, 1, 1)), abs=1e-12)
    assert np.linalg.det(axes) == pytest.approx(np.ones(9))
    turned, _ = local_axes(x @ q.T + 5.0, triad)
    assert turned == pytest.approx(axes @ q.T)


def test_no_axes_without_three_beads_or_in_a_straight_line():
    x = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 9, 9], [9, 9, 12]])
    triad = triads(5, (3,))
    assert triad.tolist() == [[0, 1, 2]] * 3 + [[-1, -1, -1]] * 2
    axes, known = local_axes(x, triad)
    assert not known.any() and not axes.any()


def test_triads_stay_on_their_piece_of_chain():
    assert triads(7, (4,)).tolist() == [
        [0, 1, 2], [0, 1, 2], [1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 6], [4, 5, 6],
    ]  # fmt: skip


def test_positions_count_from_both_ends_of_each_piece():
    names = [POSITIONS[k] for k in chain_positions(15, (8, 11))]
    assert names == [
        "N-terminal 1", "N-terminal 2", "N-terminal 3", "interior", "interior", "C-terminal 3",
        "C-terminal 2", "C-terminal 1", "N-terminal 1", "N-terminal 2", "C-terminal 1",
        "N-terminal 1", "N-terminal 2", "C-terminal 2", "C-terminal 1",
    ]  # fmt: skip


def test_surroundings_know_the_hand_and_nothing_else():
    """The same numbers for a molecule that was turned and moved, others for its mirror image."""
    internal = (np.full(5, 3.8), np.full(4, 1.6), np.array([0.9, -2.0, 1.1]))
    x = chain_from_internal(*internal)
    frames = np.stack([x, x @ rotation(1).T + 7.0, x * [1.0, 1.0, -1.0]])
    axes, _ = local_axes(frames, triads(6, ()))
    shapes = surroundings(frames, axes[:, 2], 2, [0, 1, 2, 3, 4])
    assert shapes[1] == pytest.approx(shapes[0])
    assert np.abs(shapes[2] - shapes[0]).max() > 1.0
    distance = np.linalg.norm(shapes[0].reshape(5, 3), axis=1)
    assert distance == pytest.approx(np.linalg.norm(x[:5] - x[2], axis=1))
