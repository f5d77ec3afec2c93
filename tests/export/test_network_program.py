"""The network's program compiled for a molecule: edges with a skin, any order of beads, room that grows."""

import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.energy import NetworkTerm
from cgrefine.export import program
from cgrefine.export.network_program import NetworkProgram, edge_room
from tests.export import toy
from tests.export.toy import reference


def test_far_from_the_origin_no_digit_is_lost(network):
    """Positions are centred in float64: 1e5 Å away, float32 alone would round them to 0.008 Å."""
    near, far = network(toy.frames()[0]), network(toy.frames()[0] + 1e5)
    assert np.abs(near.forces - far.forces).max() < 1e-4


def test_a_large_molecule_loses_no_digit_either(portable):
    """Halves 3e5 Å apart, where float32 has steps of 0.016 Å: what it leaves of the positions is passed on.
    Without it, forces are wrong by more than a hundred times as much."""
    x = toy.frames()[0]
    x[12:] += 3e5
    x -= x.mean(axis=0)
    expected = reference(x[None]).forces[0]
    network = NetworkProgram(portable.artifact, toy.topology().species, toy.NETWORK_CUTOFF_A)
    assert np.abs(network(x).forces - expected).max() < 1e-4
    rounded = x.astype(np.float32)
    assert np.abs(network(rounded.astype(np.float64)).forces - expected).max() > 1e-2


def test_more_edges_than_there_is_room_for_make_room(portable, caplog):
    """The crowded frame has every pair as an edge: compiled again, and said so; nothing is dropped."""
    network = NetworkProgram(portable.artifact, toy.topology().species, toy.NETWORK_CUTOFF_A)
    loose, crowded = toy.frames()[0], 0.4 * toy.frames()[0]
    network(loose)
    room = network.n_edges
    assert network.compilations == 1 and room < 552 and not caplog.records
    found, expected = network(crowded), reference(crowded[None])
    assert network.n_edges == 552 and network.compilations == 2
    assert f"546 edges within 10 Å and room for {room}" in caplog.text
    assert found.energy == pytest.approx(expected.energy[0], rel=1e-5)
    again = network(loose)
    assert network.compilations == 2
    assert np.abs(again.forces - reference(loose[None]).forces[0]).max() < 1e-4


def test_a_list_serves_until_a_bead_has_moved_by_half_of_its_skin(portable):
    """A walk with pairs that come into the cutoff: exact all the time, with a list for several frames. One
    that is kept for too long is seen."""
    network = NetworkProgram(portable.artifact, toy.topology().species, toy.NETWORK_CUTOFF_A)
    start = toy.frames()[0]
    moves = np.random.default_rng(5).normal(scale=0.02, size=(60, *start.shape))
    shrinking = np.linspace(1.0, 0.85, 60)[:, None, None]
    walk = shrinking * (start + np.cumsum(moves, axis=0))
    forces = np.stack([network(x).forces for x in walk])
    assert np.abs(forces - reference(walk).forces).max() < 1e-4
    assert 1 < network.lists < 30
    fresh = NetworkProgram(portable.artifact, toy.topology().species, toy.NETWORK_CUTOFF_A)
    fresh(start)
    fresh._half_skin2 = np.inf
    crowded = 0.5 * start
    assert np.abs(fresh(crowded).forces - reference(crowded[None]).forces[0]).max() > 1e-2


def test_positions_may_stand_in_any_order(portable):
    """Forces come in the rows of the positions, energy and virial are the same; three orders in turn, each
    with a list of its own at times. Planted: rows and beads taken for each other."""
    network = NetworkProgram(portable.artifact, toy.topology().species, toy.NETWORK_CUTOFF_A)
    frame, rng = toy.frames()[0], np.random.default_rng(2)
    expected = network(frame)
    orders = [rng.permutation(len(frame)).astype(np.int32) for _ in range(3)]
    for order, shift in zip([*orders, *orders], (0.0, 50.0, 0.0, 0.0, 0.0, 50.0), strict=True):
        found = network(frame[order] + shift, order)
        assert np.abs(found.forces - expected.forces[order]).max() < 1e-4
        assert found.energy == pytest.approx(expected.energy, abs=1e-4)
        assert found.virial == pytest.approx(expected.virial, abs=1e-3)
    swapped = network(frame[orders[0]], np.argsort(orders[0]))
    assert np.abs(swapped.forces - expected.forces[orders[0]]).max() > 0.1


def test_a_jump_beyond_the_skin_is_evaluated_again_with_a_new_list(network):
    """The call that finds it used edges of another shape; what it returns did not."""
    loose, crowded = toy.frames()[0], 0.6 * toy.frames()[0]
    network(loose)
    lists = network.lists
    for frame in (crowded, loose, crowded):
        found = network(frame)
        assert np.abs(found.forces - reference(frame[None]).forces[0]).max() < 1e-4
    assert network.lists == lists + 3


def test_a_list_is_made_before_the_skin_is_used_up(portable):
    """Steps of a twentieth of half the skin: no evaluation is made in vain."""
    network = NetworkProgram(portable.artifact, toy.topology().species, toy.NETWORK_CUTOFF_A)
    frame, calls = toy.frames()[0], []
    network(frame)
    compiled = network.compiled
    assert compiled is not None
    network.compiled = lambda *arguments: calls.append(1) or compiled(*arguments)
    step = 0.05 * np.sqrt(network._half_skin2) * np.array([[1.0, 0.0, 0.0]])
    for k in range(60):
        network(frame + k * step)
    assert network.lists > 3 and len(calls) == 60


def test_positions_that_are_not_finite_are_refused(portable):
    network = NetworkProgram(portable.artifact, toy.topology().species, toy.NETWORK_CUTOFF_A)
    broken = toy.frames()[0].copy()
    network(broken)
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="not all finite"):
        network(broken)


def test_a_force_that_is_not_finite_leaves_no_finite_virial():
    """What the guard of LAMMPS relies on. The energy is zero everywhere, its derivative is none."""

    def rootless(params, vectors, species, senders, receivers, edge_mask):
        share = jnp.sqrt(0.0 * jnp.sum(vectors**2, axis=-1))
        return jnp.zeros(species.shape[0], vectors.dtype).at[senders].add(share)

    made = program.build(NetworkTerm("network", 10.0, 1, lambda key: {}, rootless), {}, "1.7.0")
    found = NetworkProgram(made.artifact, np.zeros(3, np.int32), 10.0)(np.diag([1.0, 2.0, 3.0]))
    assert found.energy == 0.0 and not np.isfinite(found.forces).any()
    assert not np.isfinite(sum(found.virial))


def test_room_has_headroom_up_to_all_pairs():
    assert edge_room(50, 400) == 512
    assert edge_room(24, 500) == 24 * 23
    assert edge_room(1, 0) == 1


def test_two_proteins_in_one_program(portable):
    """Beads of one behind those of the other, far away: the sum of both."""
    one, two = toy.topology(24), toy.chain(10)
    network = NetworkProgram(
        portable.artifact, np.concatenate([one.species, two.species]), toy.NETWORK_CUTOFF_A
    )
    x, y = toy.frames()[0], toy.frames(10)[0] + 300.0
    both = network(np.concatenate([x, y]))
    alone = network.of(one.species)(x), network.of(two.species)(y)
    assert both.energy == pytest.approx(alone[0].energy + alone[1].energy, abs=1e-3)
    assert np.abs(both.forces[24:] - alone[1].forces).max() < 2e-3
