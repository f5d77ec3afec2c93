"""Packing: budgets hold, every frame is in exactly one batch with every edge, and little room is wasted."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrefine.data import packing
from cgrefine.data.frames import frame_set
from cgrefine.data.packing import (
    Budget,
    Item,
    Size,
    budget_for,
    estimated_batches,
    make_batch,
    next_batch,
)
from cgrefine.errors import InputError
from cgrefine.neighbors import frame_edges
from tests.data.domains import domain

CUTOFF = 10.0


def packed(sizes, budget, buffer_frames):
    """All batches, as sizes."""
    coming, waiting, batches = deque(sizes), deque(), []
    while batch := next_batch(waiting, lambda: [coming.popleft()] if coming else [], budget, buffer_frames):
        batches.append(batch)
    return batches


def lengths(count, seed):
    """mdCATH-like: log-normal 50-500, median 131; neighbours grow with length and scatter by 12 %."""
    rng = np.random.default_rng(seed)
    n = rng.lognormal(np.log(131), 0.5, 2 * count)
    n = n[(n >= 50) & (n <= 500)][:count].astype(int)
    neighbours = np.interp(n, [50, 150, 500], [24, 29, 36]) * rng.normal(1, 0.12, count)
    return [Size(int(b), int(b * e)) for b, e in zip(n, neighbours, strict=True)]


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 300)), max_size=150),
    st.integers(60, 300),
    st.integers(300, 900),
    st.integers(1, 12),
    st.integers(1, 40),
)
def test_each_frame_is_in_one_batch_within_the_budget(pairs, beads, edges, graphs, buffer_frames):
    sizes = [Size(*pair) for pair in pairs]
    budget = Budget(beads, edges, graphs)
    batches = packed(sizes, budget, buffer_frames)
    seen = [id(size) for batch in batches for size in batch]
    assert sorted(seen) == sorted(id(size) for size in sizes)
    for batch in batches:
        assert sum(s.n_beads for s in batch) <= beads and sum(s.n_edges for s in batch) <= edges
        assert 1 <= len(batch) <= graphs
    # the oldest of the waiting frames is in every batch, so frame k waits for at most k batches
    batch_of = {id(size): k for k, batch in enumerate(batches) for size in batch}
    assert all(batch_of[id(size)] <= k for k, size in enumerate(sizes))


@pytest.mark.parametrize("batch_beads", [1024, 4096])
def test_mixed_lengths_waste_little(batch_beads):
    """5 % more edge slots than the mean: at least 98 % of the beads and 92 % of the slots are used."""
    sizes = lengths(3000, 0)
    beads, edges = (sum(column) for column in zip(*sizes, strict=True))
    budget = Budget(batch_beads, int(1.05 * batch_beads * edges / beads), 1000)
    full = packed(sizes, budget, 256)[:-1]
    used = [sum(size[k] for batch in full for size in batch) / len(full) for k in (0, 1)]
    assert used[0] > 0.98 * budget.beads and used[1] > 0.92 * budget.edges


def test_packing_looks_ahead_no_further_than_its_buffer():
    """Frames after the buffer change nothing before they come in: what a restored state relies on."""
    sizes = lengths(400, 1)
    budget = Budget(1024, 40_000, 100)
    one, other = packed(sizes, budget, 64), packed(sizes[:300] + lengths(100, 9), budget, 64)
    same = sum(a == b for a, b in zip(one, other, strict=False))
    assert sum(len(batch) for batch in one[:same]) > 200 and one != other


def test_a_frame_over_the_budget_is_an_error():
    with pytest.raises(ValueError, match="exceeds the budget: 9 beads, 70 edges"):
        packed([Size(5, 10), Size(9, 70)], Budget(20, 60, 4), 8)


# --- batches ---


@pytest.fixture(scope="module")
def frames():
    return frame_set([domain(n, 16, seed) for seed, n in enumerate((5, 9, 17, 24))], False, CUTOFF)


WEIGHTS = (1.0, 0.25, 2.0)


def items(frames, rows):
    made = []
    for row in rows:
        x = frames.positions(row)
        d, f = frames.each_once.where(row)
        edges, decoy = frame_edges(x, CUTOFF), row % 3 == 1
        energy = np.nan if decoy else 2.0 * row
        kelvin = 300.0 + 10.0 * (row % 2)
        made.append(Item(row, d, f, x, frames.forces(row), *edges, WEIGHTS[row % 3], decoy, kelvin, energy))
    return made, [frames.domains[item.domain].topology for item in made]


def test_a_batch_holds_its_frames_with_every_edge(frames):
    budget = Budget(80, 1600, 8)
    made, topologies = items(frames, [0, 13, 40, 25, 7])
    batch = make_batch(made, topologies, budget)
    assert batch.positions.dtype == batch.target_forces.dtype == batch.weight.dtype == np.float32
    assert batch.positions.shape == (80, 3) and batch.neighbors.senders.shape == (1600,)
    assert batch.neighbors.senders.dtype == batch.neighbors.receivers.dtype == np.int32
    start, edges = 0, 0
    for graph, item in enumerate(made):
        rows = slice(start, start + item.n_beads)
        assert np.array_equal(batch.positions[rows], item.positions)
        assert np.array_equal(batch.target_forces[rows], item.forces)
        assert np.all(batch.decoy[rows] == item.decoy)
        assert np.all(batch.weight[rows] == item.weight)
        assert np.all(batch.system.graph_id[rows] == graph)
        assert np.array_equal(batch.system.species[rows], topologies[graph].species)
        inside = slice(edges, edges + item.n_edges)
        assert np.array_equal(batch.neighbors.senders[inside], item.senders + start)
        assert np.array_equal(batch.neighbors.receivers[inside], item.receivers + start)
        start, edges = rows.stop, inside.stop
    assert batch.neighbors.edge_mask.sum() == edges and batch.neighbors.edge_mask[:edges].all()
    assert not batch.neighbors.senders[edges:].any() and not batch.neighbors.receivers[edges:].any()
    assert not batch.system.bead_mask[start:].any() and np.all(batch.weight[start:] == 0)
    assert not batch.decoy[start:].any() and batch.system.graph_mask.sum() == 5
    assert np.array_equal(batch.system.temperature_K, [300, 310, 300, 310, 310, 0, 0, 0])
    assert np.array_equal(batch.target_energies[:5], [0, np.nan, np.nan, np.nan, np.nan], equal_nan=True)
    assert np.isnan(batch.target_energies[5:]).all() and batch.gauge[:5].tolist() == [0, 1, 2, 3, 4]
    # one domain: rows 2 and 4 at 300 K, 3 at 310 K
    assert make_batch(*items(frames, [2, 3, 4]), budget).gauge[:3].tolist() == [0, 1, 0]
    by_residue = np.linspace(0.5, 2.4, 20)
    weighted = make_batch(made, topologies, budget, by_residue).weight
    assert np.allclose(weighted, batch.weight * by_residue[batch.system.species], rtol=1e-6)


def test_an_overfull_batch_raises(frames):
    made, topologies = items(frames, range(4))
    with pytest.raises(ValueError, match="edges do not fit"):
        make_batch(made, topologies, Budget(60, 8, 12))
    with pytest.raises(ValueError, match="beads"):
        make_batch(made, topologies, Budget(8, 600, 12))


def test_budget(frames, monkeypatch):
    beads = np.array([frames.domains[d].n_beads for d, _ in map(frames.each_once.where, range(48))])
    edges = np.array([len(frame_edges(frames.positions(row), CUTOFF)[0]) for row in range(48)])
    budget = budget_for([frames], 600, 1.2)
    wanted = 1.2 * 600 * edges.sum() / beads.sum()
    assert wanted <= budget.edges < wanted + 65 and budget.edges % 64 == 0
    assert budget.beads == 600 and budget.graphs == 600 // 5
    monkeypatch.setattr(packing, "SINGLE_HEADROOM", 3.0)
    tight = budget_for([frames], 24, 1.0)
    assert 3.0 * edges.max() <= tight.edges < 3.0 * edges.max() + 64
    with pytest.raises(InputError, match=r"batch_beads = 20 .* \(24 residues\)"):
        budget_for([frames], 20, 1.05)
    with pytest.raises(InputError, match="no frame to make batches of"):
        budget_for([frame_set([], False, CUTOFF)], 20, 1.05)


def test_the_estimate_counts_weights_and_decoys(frames):
    budget = budget_for([frames], 60, 1.05)
    once = estimated_batches(frames, budget, 0.0, 64)
    assert once >= frames.total_beads / 60
    assert estimated_batches(frames, budget, 0.5, 64) == round(1.5 * once)
    twice = frame_set(frames.domains, False, CUTOFF, temperature_weights={450.0: 3.0})
    assert estimated_batches(twice, budget, 0.0, 64) == 2 * once
