"""The program of one domain: what it reports, what it drops, and what cannot leave."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cgrefine
from cgrefine.energy import NetworkTerm
from cgrefine.errors import InputError
from cgrefine.export import deploy
from cgrefine.export.portable import unreadable
from cgrefine.export.ptb import encode
from tests.export import density

X = np.array([[0.0, 0, 0], [3.0, 0, 0], [0, 4.0, 0], [0, 4.0, 5.9], [20.0, 0, 0]])
SPECIES = np.array([3, 0, 19, 7, 1])
LISTED = np.array([[0, 1], [0, 2], [1, 2], [2, 3], [0, 3]])
"""Pairs of X within the cutoff and a skin; those of beads 2-3 (5.9 Å) and 0-3 (7.1 Å) do not count."""
TERM = density.network(1, cutoff_A=5.5)


@pytest.fixture(scope="module")
def container():
    return deploy.container(TERM, density.params())


@pytest.fixture(scope="module")
def program(container):
    return deploy.load(encode(container))


def called(program, newton=True, room=6, listed=LISTED, rows=8, n_local=5, species=SPECIES):
    """Values of X in rows of which the last are padding, local beads first, then ghosts."""
    pairs = np.concatenate([listed, listed[:, ::-1]]) if newton else listed
    ends = np.full((2, 10), rows)
    ends[:, : len(pairs)] = pairs.T
    x, kinds = np.zeros((rows, 3)), np.zeros(rows, int)
    x[:5], kinds[:5] = X, species
    return program(x, kinds, n_local, 5 - n_local, newton, ends[0], ends[1], room)


def test_edges_beyond_the_cutoff_are_dropped_and_the_others_counted(program):
    full, half = called(program), called(program, newton=False)
    assert (full.needed_edges, full.n_within_cutoff) == (6, 6)
    assert (half.needed_edges, half.n_within_cutoff) == (6, 3)


def test_lists_with_pairs_once_and_twice_give_the_reference(program):
    energy, forces = density.reference(TERM, density.params(), X, SPECIES, None)
    assert np.abs(forces).max() > 1.0
    for values in (called(program), called(program, newton=False)):
        assert values.energy == pytest.approx(energy, abs=1e-5)
        assert np.abs(values.forces[:5] - forces).max() < 1e-5
        assert not values.forces[5:].any()


def test_the_energy_is_that_of_local_beads_and_newton_says_whose_forces(program):
    """Two local beads of five: with newton on the rest has the forces of their energy, no more."""
    i, j = np.concatenate([LISTED[:3], LISTED[:3, ::-1]]).T
    with jax.enable_x64(True):
        shares = TERM.edge_energy(density.params(), X[j] - X[i], SPECIES, i, j, np.ones(6, bool))
    local = float(shares[0] + shares[1])
    on, off = called(program, n_local=2), called(program, newton=False, n_local=2)
    assert on.energy == pytest.approx(local, abs=1e-5)
    assert off.energy == pytest.approx(local, abs=1e-5)
    whole = called(program).forces
    assert np.abs(off.forces[:2] - whole[:2]).max() < 1e-5
    assert np.abs(on.forces[:2] - whole[:2]).max() > 0.1
    assert np.abs(on.forces.sum(axis=0)).max() < 1e-5


def test_only_edges_that_local_beads_depend_on_need_room(program):
    """Bead 4 alone is local: nothing is near it. Bead 1: its two edges, and with newton off those of its
    neighbours too, on whose energies it has an influence."""

    def needed(local, newton):
        rows = [local, *(b for b in range(5) if b != local)]
        place = np.argsort(rows)
        x, listed = np.zeros((8, 3)), place[LISTED]
        x[:5] = X[rows]
        pairs = np.concatenate([listed, listed[:, ::-1]]) if newton else listed
        kinds = np.zeros(8, int)
        return program(x, kinds, 1, 4, newton, pairs[:, 0], pairs[:, 1], 4).needed_edges

    assert needed(4, True) == needed(4, False) == 0
    assert needed(3, True) == needed(3, False) == 0
    assert needed(1, True) == 2
    assert needed(1, False) == 6


def test_too_little_room_is_said_and_gives_no_numbers(program):
    short, enough = called(program, room=5), called(program, room=6)
    assert short.needed_edges == enough.needed_edges == 6
    assert np.isnan(short.energy) and np.isnan(short.forces).all()
    assert np.isfinite(enough.energy) and np.isfinite(enough.forces).all()


def test_bits_of_special_neighbours_are_not_part_of_the_index(program):
    """hybrid/overlay with special_bonds 1e-50 marks neighbours 1-2 in the two upper bits, up to the sign."""
    plain = called(program, newton=False)
    marked = LISTED.astype(np.uint32)
    marked[:3, 1] ^= np.array([1, 2, 3], np.uint32) << 30
    marked = marked.view(np.int32)
    assert marked[2, 1] < 0 < marked[0, 1]
    values = called(program, newton=False, listed=marked)
    assert values.energy == plain.energy and values.needed_edges == 6
    assert np.array_equal(values.forces, plain.forces)


def test_orders_of_neighbours_follow_the_hops():
    assert [deploy.neighbour_order(density.network(hops)) for hops in (1, 2)] == [(1, 2), (2, 4)]


def test_the_file_holds_plain_text_without_traces_of_this_machine(container):
    for place in (str(Path(cgrefine.__file__).parent), sys.prefix, str(Path.home()), ".py", "loc("):
        assert place not in container.text
    assert "?x3xf32" in container.text
    assert unreadable(container.text) == []


def leaves_with(function) -> str:
    """What is said of a network that uses this function."""

    def edge_energy(params, vectors, species, senders, receivers, edge_mask):
        share = jnp.where(edge_mask, function(vectors[:, 0] / 20.0), 0.0)
        return jnp.zeros(species.shape[0], vectors.dtype).at[senders].add(share)

    with pytest.raises(ValueError, match="'network' for chemtrain-deploy: it cannot leave") as refused:
        deploy.container(NetworkTerm("network", 5.0, 1, lambda key: {}, edge_energy), {})
    return str(refused.value)


@pytest.mark.parametrize(
    "function, named",
    [
        (jnp.arccos, "composite|chlo.acos"),
        (jax.scipy.special.erf, "composite|chlo.erf"),
        (jnp.cumsum, "custom_call @stablehlo.dynamic_reduce_window"),
        (lambda v: jnp.linalg.eigvalsh(v[:, None, None] * jnp.eye(3))[:, 0], "custom_call @lapack"),
    ],
    ids=["arccos", "erf", "cumsum", "eigvalsh"],
)
def test_operations_that_the_consumer_lacks_are_named(function, named):
    assert re.search(named, leaves_with(function))


def test_a_network_of_many_temperatures_is_refused():
    with pytest.raises(ValueError, match="conditioned on temperature"):
        deploy.container(replace(TERM, reference_K=300.0), density.params())


def test_a_container_without_a_program_is_refused(container):
    with pytest.raises(InputError, match="holds no StableHLO program"):
        deploy.load(encode(container._replace(text="no program")))
