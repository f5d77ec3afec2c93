"""Rooms: frames in packed graphs of one size, each of them once."""

import numpy as np
import pytest

from cgrefine import neighbors
from cgrefine.sim.forces import CAPACITY_STEP as EDGE_STEP
from cgrefine.sim.rooms import Room, filled, own_room, room
from cgrefine.system import topology_from_species
from tests.chains import random_chain

CUTOFF = 9.0


def chain(n, count):
    return topology_from_species([0] * n), np.stack([random_chain(n, seed) for seed in range(count)])


def pairs(x):
    return {
        (i, j)
        for i in range(len(x))
        for j in range(len(x))
        if i != j and np.linalg.norm(x[i] - x[j]) < CUTOFF
    }


def test_each_frame_is_new_once_and_repeats_come_after():
    """Seven frames in rooms of three: 3 + 3 + 1, of which the last is filled up with what it has."""
    n, (topology, x) = 8, chain(8, 7)
    within = Room(beads=3 * n + 2, frames=4, edges=2 * EDGE_STEP)
    rooms = list(filled(topology, x, CUTOFF, within))
    assert [full.own for full in rooms] == [3, 3, 1]
    assert np.concatenate([full.chosen[: full.own] for full in rooms]).tolist() == list(range(7))
    assert rooms[-1].chosen.tolist() == [6, 6, 6]
    for full in rooms:
        assert full.positions.shape == (26, 3) and full.edges.senders.shape == (2 * EDGE_STEP,)
        assert full.system.graph_mask.tolist() == [True] * 3 + [False]
        np.testing.assert_array_equal(full.positions[: 3 * n].reshape(3, n, 3), x[full.chosen])
        np.testing.assert_array_equal(full.positions[3 * n :], 0.0)
        listed = list(
            zip(
                full.edges.senders[full.edges.edge_mask],
                full.edges.receivers[full.edges.edge_mask],
                strict=True,
            )
        )
        expected = {(i + n * f, j + n * f) for f, frame in enumerate(full.chosen) for i, j in pairs(x[frame])}
        assert set(listed) == expected and len(listed) == len(expected)


def test_frames_whose_edges_do_not_fit_together_take_more_rooms():
    """Room for the edges of one frame and a half: one at a time, and no repeat where there is no room."""
    topology, x = chain(20, 4)
    dense = 0.4 * x
    counts = [len(neighbors.frame_edges(frame, CUTOFF)[0]) for frame in dense]
    edges = EDGE_STEP * (max(counts) // EDGE_STEP + 1)
    assert 2 * min(counts) > edges
    rooms = list(filled(topology, dense, CUTOFF, Room(80, 4, edges)))
    assert [(full.own, full.chosen.tolist()) for full in rooms] == [(1, [f]) for f in range(4)]


def test_a_frame_with_more_edges_than_a_room_gets_more():
    topology, x = chain(20, 3)
    counts = [len(neighbors.frame_edges(frame, CUTOFF)[0]) for frame in 0.3 * x]
    assert min(counts) > EDGE_STEP
    for full in filled(topology, 0.3 * x, CUTOFF, Room(60, 3, EDGE_STEP)):
        assert len(full.edges.senders) == EDGE_STEP * -(-max(counts) // EDGE_STEP)
        assert int(full.edges.edge_mask.sum()) == sum(counts[f] for f in full.chosen)


def test_a_molecule_that_is_larger_than_the_room_is_refused():
    topology, x = chain(9, 1)
    with pytest.raises(ValueError, match="a room of 8 beads, and a molecule of 9"):
        next(filled(topology, x, CUTOFF, Room(8, 1, EDGE_STEP)))


def test_temperatures_and_types_are_handed_on():
    topology, x = chain(6, 2)
    for dtype in (np.float32, np.float64):
        (full,) = filled(topology, x.astype(dtype), 0.0, Room(20, 3, 0), 320.0)
        assert full.positions.dtype == dtype and len(full.edges.senders) == 0
        assert full.chosen.tolist() == [0, 1]
        np.testing.assert_array_equal(full.system.temperature_K, np.array([320.0, 320.0, 0.0], np.float32))


def test_a_room_holds_the_longest_frame_and_no_more_than_about_the_beads_asked_for():
    """Chains of 5 and 30 beads in about 20, or 100: at least the longest, whole frames of the shortest."""
    short, long = chain(5, 3), chain(30, 3)
    assert room([short, long], CUTOFF, 20)[:2] == (30, 4)
    assert room([short, long], CUTOFF, 104)[:2] == (100, 20)
    assert room([short], 0.0, 3) == (5, 1, 0)
    assert own_room(*chain(5, 3), CUTOFF, 1000)[:2] == (20, 4)
    per_bead = np.mean([len(pairs(frame)) for frame in short[1]]) / 5
    assert room([short, long], CUTOFF, 1000).edges == EDGE_STEP * np.ceil(1000 * per_bead / EDGE_STEP)
