"""The pipeline: (seed, epoch) decide the order, shares divide it, a restored state goes on bit for bit."""

import json
from contextlib import closing
from dataclasses import replace
from itertools import islice

import jax
import numpy as np
import pytest

from cgrefine.data.frames import frame_set
from cgrefine.data.loader import (
    AS_THEY_ARE,
    Decoys,
    Noising,
    Reading,
    Recipe,
    Weighting,
    as_bytes,
    each,
    from_bytes,
    noised,
    sweep,
    training_batches,
)
from cgrefine.data.packing import Budget, budget_for
from cgrefine.data.store import open_dataset, write_domain, write_index
from cgrefine.errors import InputError
from cgrefine.neighbors import frame_edges
from tests.data.domains import domain

CUTOFF = 10.0
READING = Reading(buffer_frames=12, prefetch=2, workers=0)
DECOYS = Recipe(Decoys(0.25, 0.5, 0.1))


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """48 training frames of four domains, on disk."""
    folder, entries = tmp_path_factory.mktemp("store"), []
    for seed, n in enumerate((5, 9, 17, 24)):
        d = domain(n, 16, seed)
        names = ("positions", "forces", "temperature_K", "replica", "frame", "validation")
        arrays = {key: np.asarray(getattr(d, key)) for key in names}
        entries.append(write_domain(folder, d.name, d.topology, arrays, {}))
    write_index(folder, entries, {})
    return frame_set(open_dataset(folder).domains, False, CUTOFF)


@pytest.fixture(scope="module")
def budget(frames):
    return budget_for([frames], 60, 1.05)


def real(packed):
    """Rows of all graphs of batches, in order."""
    return [int(row) for one in packed for row in one.rows if row >= 0]


def same(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    # NaN, the energy of a frame without one, equals itself
    return all(np.asarray(a).dtype == np.asarray(b).dtype and a.tobytes() == b.tobytes() for a, b in leaves)


def test_a_sweep_holds_each_frame_once_with_its_edges(frames, budget):
    batches = list(each(sweep(frames, budget, READING)))
    assert sorted(real(batches)) == list(range(48))
    for rows, batch in batches:
        start, neighbors = 0, batch.neighbors
        for graph, row in enumerate(rows[rows >= 0].tolist()):
            x = frames.positions(row)
            beads = slice(start, start + len(x))
            assert np.array_equal(batch.positions[beads], x) and np.all(batch.weight[beads] == 1)
            assert np.array_equal(batch.target_forces[beads], frames.forces(row))
            assert np.all(batch.system.graph_id[beads] == graph)
            inside = neighbors.edge_mask & (neighbors.senders >= start) & (neighbors.senders < beads.stop)
            pairs = np.stack([neighbors.senders[inside], neighbors.receivers[inside]])
            assert np.array_equal(pairs - start, np.stack(frame_edges(x, CUTOFF)))
            start = beads.stop
        assert not batch.system.bead_mask[start:].any()
    again = list(each(sweep(frames, budget, READING)))
    assert all(same(a, b) for a, b in zip(batches, again, strict=True))


def test_seed_and_epoch_decide_the_order(frames, budget):
    orders = {
        key: real(each(training_batches(frames, budget, *key, DECOYS, READING)))
        for key in ((3, 1), (3, 2), (4, 1), (3, 1))
    }
    assert real(each(training_batches(frames, budget, 3, 1, DECOYS, READING))) == orders[3, 1]
    assert orders[3, 1] != orders[3, 2] and orders[3, 1] != orders[4, 1]
    assert all(sorted(order) == list(range(60)) for order in orders.values())


def test_shuffled_frames_are_not_in_the_order_of_domains(frames, budget):
    """Ranks of the first half of an epoch: a sum that would be extreme without the shuffle (4 σ)."""
    order = real(each(training_batches(frames, budget, 0, 1, AS_THEY_ARE, READING)))
    half = np.sum(order[:24])
    assert abs(half - 24 * 47 / 2) < 4 * np.sqrt(24 * 24 * 49 / 12)


def test_shares_divide_the_epoch(frames, budget):
    shares = [READING._replace(share=(k, 3)) for k in range(3)]
    parts = [real(each(training_batches(frames, budget, 0, 1, DECOYS, share))) for share in shares]
    assert sorted(row for part in parts for row in part) == list(range(60))
    assert [len(part) for part in parts] == [20, 20, 20]


def test_decoys_are_noisy_copies_with_their_own_edges(frames, budget):
    """12 decoys for 48 frames, each of another frame; noise of 0.5 Å to four standard errors."""
    batches = list(each(training_batches(frames, budget, 0, 1, DECOYS, READING)))
    noise, copied = [], []
    for rows, batch in batches:
        assert np.all(batch.weight[batch.decoy] == np.float32(0.1))
        assert np.all(batch.target_forces[batch.decoy] == 0)
        start = 0
        for row in rows[rows >= 0].tolist():
            graph = batch.system.graph_id[start]
            beads = slice(start, start + int((batch.system.graph_id[batch.system.bead_mask] == graph).sum()))
            assert np.all(batch.decoy[beads] == (row >= 48))
            if row >= 48:
                x = batch.positions[beads]
                every = [(r, frames.positions(r)) for r in range(48)]
                near = [(np.abs(x - y).mean(), r) for r, y in every if y.shape == x.shape]
                copied.append(min(near)[1])
                noise.append(x - frames.positions(copied[-1]))
                inside = batch.neighbors.edge_mask & (batch.system.graph_id[batch.neighbors.senders] == graph)
                pairs = np.stack([batch.neighbors.senders[inside], batch.neighbors.receivers[inside]])
                assert np.array_equal(pairs - start, np.stack(frame_edges(x, CUTOFF)))
            start = beads.stop
    assert len(copied) == len(set(copied)) == 12
    values = np.concatenate(noise).ravel()
    assert abs(values.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * len(values))
    assert abs(values.mean()) < 4 * 0.5 / np.sqrt(len(values))


def restored(dataset, after):
    """The rest of an epoch after `after` batches, and the same from a fresh iterator with its state."""
    with closing(iter(dataset)) as running:
        begun = list(islice(running, after))
        state = json.loads(json.dumps(running.get_state()))
        rest = list(running)
    with closing(iter(dataset)) as fresh:
        fresh.set_state(state)
        again = list(fresh)
    return begun, rest, again


@pytest.mark.parametrize("share", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("after", [1, 4])
def test_a_restored_state_goes_on_bit_for_bit(frames, budget, share, after):
    reading = READING._replace(share=share)
    begun, rest, again = restored(training_batches(frames, budget, 7, 2, DECOYS, reading), after)
    assert len(begun) == after and len(rest) > 2
    assert all(same(a, b) for a, b in zip(rest, again, strict=True))
    assert sorted(real(begun + rest)) != sorted(real(rest))


def test_set_state_rewinds_a_running_iterator(frames, budget):
    with closing(iter(training_batches(frames, budget, 7, 2, DECOYS, READING))) as running:
        first = list(islice(running, 3))
        state = running.get_state()
        rest = list(running)
        running.set_state(state)
        assert all(same(a, b) for a, b in zip(rest, running, strict=True))
    assert sorted(real(first + rest)) == list(range(60))


def test_a_batch_survives_as_bytes(frames, budget):
    """What goes between processes: every array, with shape and type, from one flat array."""
    one, other = islice(each(training_batches(frames, budget, 7, 2, DECOYS, READING)), 2)
    assert not same(one, other)
    assert same(from_bytes(other, as_bytes(one)), one)


def test_worker_processes_give_each_frame_once_and_restore(frames, budget):
    """Two worker processes, each packing half of the rows; restored while they run, which saves a start."""
    reading = READING._replace(workers=2)
    with closing(iter(training_batches(frames, budget, 7, 2, DECOYS, reading))) as running:
        begun = list(islice(running, 3))
        state = json.loads(json.dumps(running.get_state()))
        seen = list(islice(running, 4))
        running.set_state(state)
        again = list(running)
    assert all(same(a, b) for a, b in zip(seen, again[:4], strict=True))
    assert sorted(real(begun + again)) == list(range(60))


def test_a_frame_larger_than_a_batch_names_what_to_raise(frames):
    for budget, key in (
        (Budget(20, 900, 4), "train.batch_beads"),
        (Budget(90, 60, 4), "loader.edge_headroom"),
    ):
        with pytest.raises(InputError, match=rf"domain d\d, frame \d+: .* do not fit a batch of .* {key}"):
            list(each(sweep(frames, budget, READING)))


def test_an_empty_share_has_no_batch(frames, budget):
    few = frame_set(frames.domains[:1], False, CUTOFF, stride=100)
    share = READING._replace(share=(40, 41))
    assert list(each(training_batches(few, budget, 0, 1, AS_THEY_ARE, share))) == []
    assert list(each(sweep(frame_set([], False, CUTOFF), budget, READING))) == []


def test_a_stream_goes_through_its_epochs(frames, budget):
    """Three epochs as one stream: each holds what it holds alone, in its own order, across batches."""
    stream = list(each(training_batches(frames, budget, 3, 1, DECOYS, READING, epochs=3)))
    rows = real(stream)
    assert sorted(rows) == list(range(180)) and len(stream) < 3 * len(
        list(each(training_batches(frames, budget, 3, 1, DECOYS, READING)))
    )
    waiting = READING.buffer_frames + budget.graphs
    for epoch in range(3):
        places = [k for k, row in enumerate(rows) if row // 60 == epoch]
        assert places[0] >= 60 * epoch - waiting and places[-1] < 60 * (epoch + 1) + waiting
    mixed = [batch for batch in stream if len({row // 60 for row in batch.rows if row >= 0}) > 1]
    assert mixed


def test_a_stream_restored_between_epochs_goes_on(frames, budget):
    begun, rest, again = restored(training_batches(frames, budget, 7, 2, DECOYS, READING, epochs=2), 13)
    assert {row // 60 for row in real(begun)} == {0, 1} and len(rest) > 2
    assert all(same(a, b) for a, b in zip(rest, again, strict=True))


def test_a_stream_of_thinned_frames_keeps_to_its_rows(frames, budget):
    """Weight 0.3: some 0.3 · 48 rows an epoch, one more or less in each, and no row is made twice."""
    thin = replace(frames, pieces=frames.pieces._replace(weight=np.full(len(frames.pieces.count), 0.3)))
    rows = real(each(training_batches(thin, budget, 0, 0, AS_THEY_ARE, READING, epochs=20)))
    assert len(rows) == len(set(rows)) and abs(len(rows) / 20 - 0.3 * 48) < 1.0


def test_weights_of_residues_temperatures_and_decoys_multiply(frames, budget):
    pieces = 1.0 + np.arange(len(frames.pieces.count))
    residues = np.linspace(0.5, 2.0, 20).astype(np.float32)
    recipe = DECOYS._replace(weighting=Weighting(residues, pieces))
    for rows, batch in each(training_batches(frames, budget, 0, 1, recipe, READING)):
        for graph, row in enumerate(rows[rows >= 0].tolist()):
            beads = batch.system.bead_mask & (batch.system.graph_id == graph)
            if row < 48:
                piece = frames.each_once.piece_of(row)
                expected = pieces[piece] * residues[batch.system.species[beads]]
                assert np.allclose(batch.weight[beads], expected, rtol=1e-6)
            else:
                assert np.all(batch.weight[beads] < 0.11 * pieces.max() * 2.0)


def test_noised_frames_pull_back_to_where_they_were(frames):
    """x' = x + σε: half of the force and half of -kT ε/σ, by hand; and the noise has the asked width."""
    x, forces, draw = np.zeros((2, 3)), np.full((2, 3), 8.0), np.array([[1.0, 0, -1.0], [0.5, 0, 0]])
    moved, mixed = noised(Noising(0.2, 0.5), x, forces, draw, 0.6)
    assert np.allclose(moved, 0.2 * draw) and np.allclose(mixed, 4.0 - 0.5 * 0.6 / 0.2 * draw)
    loud = budget_for([frames], 200, 3.0)
    shifts = []
    recipe = Recipe(noising=Noising(0.3, 1.0))
    for rows, batch in each(training_batches(frames, loud, 0, 1, recipe, READING)):
        starts = np.searchsorted(batch.system.graph_id, np.arange((rows >= 0).sum()))
        for start, row in zip(starts.tolist(), rows[rows >= 0].tolist(), strict=True):
            original = frames.positions(row)
            shifts.append(batch.positions[start : start + len(original)] - original)
            assert np.array_equal(batch.target_forces[start : start + len(original)], frames.forces(row))
    values = np.concatenate(shifts).ravel()
    assert abs(values.std() - 0.3) < 4 * 0.3 / np.sqrt(2 * len(values))


def test_a_frame_with_a_force_that_is_not_finite_counts_for_nothing(frames, budget):
    _, frame = frames.each_once.where(2)
    forces = np.array(frames.domains[0].forces)
    forces[frame, 2] = np.nan
    broken = replace(frames, domains=(replace(frames.domains[0], forces=forces), *frames.domains[1:]))
    unweighted = 0
    for _, batch in each(training_batches(broken, budget, 0, 1, AS_THEY_ARE, READING)):
        assert np.all(np.isfinite(batch.target_forces))
        unweighted += int((batch.system.bead_mask & (batch.weight == 0)).sum())
    assert unweighted == frames.domains[0].n_beads
    positions = np.array(frames.domains[0].positions)
    positions[frame, 2] = np.nan
    gone = replace(frames, domains=(replace(frames.domains[0], positions=positions), *frames.domains[1:]))
    with pytest.raises(InputError, match=f"frame {frame}: a position is not a finite number"):
        list(each(training_batches(gone, budget, 0, 1, AS_THEY_ARE, READING)))
