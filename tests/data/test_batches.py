"""Packed batches: nothing is dropped, budgets hold, and (seed, epoch) decide the order."""

import numpy as np
import pytest

from cgrefine.data import batches
from cgrefine.data.batches import Budget, Decoys
from cgrefine.data.store import in_memory
from cgrefine.errors import InputError
from cgrefine.neighbors import frame_edges
from tests.chains import random_chain, random_topology

CUTOFF = 10.0


def domain(n, n_frames, seed):
    x = np.stack([random_chain(n, 100 * seed + k) for k in range(n_frames)]).astype(np.float32)
    forces = np.random.default_rng(seed).normal(size=x.shape).astype(np.float32)
    held = np.arange(n_frames) % 4 == 3
    arrays = {
        "positions": x,
        "forces": forces,
        "temperature_K": np.full(n_frames, 300.0),
        "replica": np.zeros(n_frames),
        "frame": np.arange(n_frames),
        "validation": held,
    }
    return in_memory(f"d{seed}", random_topology(n, seed), arrays)


@pytest.fixture(scope="module")
def frames():
    domains = [domain(n, 16, seed) for seed, n in enumerate((5, 9, 17, 24))]
    return batches.frame_set(domains, validation=False, cutoff_A=CUTOFF)


@pytest.mark.parametrize("seed", range(5))
def test_best_fit_holds_each_item_once_within_the_budget(seed):
    rng = np.random.default_rng(seed)
    beads = rng.integers(5, 120, 700)
    edges = beads * rng.integers(4, 30, 700)
    budget = Budget(500, int(edges.max()) + 2000, 20)
    packed = batches.best_fit(beads, edges, budget, np.random.default_rng(seed))
    assert sorted(i for batch in packed for i in batch) == list(range(700))
    for batch in packed:
        assert beads[batch].sum() <= budget.beads and edges[batch].sum() <= budget.edges
        assert 1 <= len(batch) <= budget.graphs


def test_mixed_lengths_waste_little():
    """mdCATH-like lengths (lognormal, median 131) in 16 k edge slots: at least 95 % hold an edge."""
    rng = np.random.default_rng(0)
    beads = np.clip(rng.lognormal(np.log(131), 0.5, 3000).astype(int), 50, 500)
    edges = (beads * rng.normal(18, 2, 3000)).astype(int)
    budget = Budget(10**6, 16_384, 1000)
    packed = batches.best_fit(beads, edges, budget, rng)
    assert edges.sum() / (len(packed) * budget.edges) > 0.95


def test_an_item_over_the_budget_is_an_error():
    with pytest.raises(ValueError, match="exceeds the budget"):
        batches.best_fit(np.array([5, 9]), np.array([10, 70]), Budget(20, 60, 4), np.random.default_rng(0))


def test_frame_set_is_the_split(frames):
    assert len(frames) == 4 * 12
    assert all(not frames.domains[d].validation[f] for d, f in frames.rows)
    other = batches.frame_set(frames.domains, validation=True, cutoff_A=CUTOFF)
    assert len(other) == 4 * 4


def test_a_batch_holds_its_frames_with_every_edge(frames):
    budget = batches.budget_for([frames], 60)
    seen, edges = [], 0
    for items in batches.sweep(frames, budget).batches:
        batch = batches.make_batch(frames, items, budget)
        assert batch.positions.shape == (60, 3) and batch.neighbors.senders.shape == (budget.edges,)
        assert batch.positions.dtype == batch.target_forces.dtype == batch.weight.dtype == np.float32
        start = 0
        for graph, item in enumerate(items):
            x = frames.positions(item.row)
            rows = slice(start, start + len(x))
            assert np.array_equal(batch.positions[rows], x)
            assert np.array_equal(batch.target_forces[rows], frames.forces(item.row))
            assert np.all(batch.system.graph_id[rows] == graph) and np.all(batch.weight[rows] == 1)
            inside = (batch.neighbors.senders >= start) & (batch.neighbors.senders < rows.stop)
            inside &= batch.neighbors.edge_mask
            pairs = np.stack(frame_edges(x, CUTOFF)) + start
            assert np.array_equal(batch.neighbors.senders[inside], pairs[0])
            assert np.array_equal(batch.neighbors.receivers[inside], pairs[1])
            start, edges = rows.stop, edges + inside.sum()
            seen.append(item.row)
        assert not batch.system.bead_mask[start:].any() and np.all(batch.weight[start:] == 0)
        assert np.all(np.diff(batch.neighbors.senders[batch.neighbors.edge_mask]) >= 0)
    assert sorted(seen) == list(range(len(frames)))
    assert edges == frames.edges.sum()


def test_an_overfull_batch_raises(frames):
    budget = batches.budget_for([frames], 60)
    items = batches.sweep(frames, budget).batches[0]
    with pytest.raises(ValueError, match="edges do not fit"):
        batches.make_batch(frames, items, budget._replace(edges=8))
    with pytest.raises(ValueError, match="beads"):
        batches.make_batch(frames, items, budget._replace(beads=8))


def test_seed_and_epoch_decide_the_order(frames):
    budget = batches.budget_for([frames], 60)
    decoys = Decoys(0.25, 0.5, 0.1)
    plans = {
        key: batches.plan_epoch(frames, budget, *key, decoys).batches for key in ((3, 1), (3, 2), (4, 1))
    }
    assert batches.plan_epoch(frames, budget, 3, 1, decoys).batches == plans[3, 1]
    assert plans[3, 1] != plans[3, 2] and plans[3, 1] != plans[4, 1]


def test_decoys_are_noisy_copies_with_their_own_edges(frames):
    """A quarter of 48 frames more; noise of standard deviation 0.5 Å to four standard errors."""
    budget = batches.budget_for([frames], 60)
    decoys = Decoys(0.25, 0.5, 0.1)
    plan = batches.plan_epoch(frames, budget, 0, 1, decoys)
    items = [item for batch in plan.batches for item in batch if item.noise_seed is not None]
    assert len(items) == 12
    noise = []
    for packed in plan.batches:
        batch = batches.make_batch(frames, packed, budget, decoys)
        again = batches.make_batch(frames, packed, budget, decoys)
        assert np.array_equal(batch.positions, again.positions)
        assert np.all(batch.weight[batch.decoy] == np.float32(0.1))
        assert np.all(batch.target_forces[batch.decoy] == 0)
        start = 0
        for item in packed:
            x = frames.positions(item.row)
            rows = slice(start, start + len(x))
            if item.noise_seed is not None:
                noise.append(batch.positions[rows] - x)
            start = rows.stop
    values = np.concatenate(noise).ravel()
    assert abs(values.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * len(values))
    assert abs(values.mean()) < 4 * 0.5 / np.sqrt(len(values))


def test_budget_and_neighbours(frames):
    budget = batches.budget_for([frames], 60)
    assert budget.edges >= frames.edges.max() and budget.edges % 64 == 0
    assert budget.graphs == 60 // 5
    assert batches.mean_neighbors(frames, CUTOFF) == pytest.approx(frames.edges.sum() / frames.beads.sum())
    with pytest.raises(InputError, match=r"batch_beads = 20 .* \(24 residues\)"):
        batches.budget_for([frames], 20)
