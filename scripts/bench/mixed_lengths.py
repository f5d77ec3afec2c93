"""An epoch over proteins of mixed lengths: packed batches against frames padded to the longest; prints JSON.

Synthetic compact chains of 50 to 500 residues (log-normal, median 131, sigma 0.5) with random forces, the
default network. Both ways take the same frames, the same network and the same step; a padded batch has room
for FRAMES frames of the longest length and the largest number of edges, as it must where shapes are fixed
and a frame is a row. Both have room for as many beads. Steps of both are timed in turns, and multiplied by
the batches of an epoch. Also the share of time that training waits for batches, from `fm.train.fit` on some
of the frames.

    python scripts/bench/mixed_lengths.py [--frames 480]
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cgrefine.config.data import Loader
from cgrefine.config.training import Model, Train
from cgrefine.data.frames import FrameSet, frame_set, mean_neighbors, sampled_sizes
from cgrefine.data.loader import AS_THEY_ARE, FrameSource, Reading, each, sweep
from cgrefine.data.packing import Batch, Budget, budget_for, make_batch, slim
from cgrefine.data.store import Domain, in_memory
from cgrefine.energy import SumOfTerms
from cgrefine.fm.devices import mesh_of
from cgrefine.fm.models.registry import network_term
from cgrefine.fm.step import Lanes, Matching
from cgrefine.fm.train import Task, fit, single
from cgrefine.system import topology_from_species

FRAMES = 4
"""Frames in a padded batch."""

CUTOFF_A = 12.0
STEPS = 6


def main() -> None:
    """Make the frames, time both kinds of steps in turns, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=480)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    frames = frame_set(chains(args.frames, rng), False, CUTOFF_A)
    beads, edges = sampled_sizes(frames, len(frames))
    padded = Budget(FRAMES * int(beads.max()), FRAMES * int(edges.max()), FRAMES)
    packed = budget_for([frames], padded.beads, Loader().edge_headroom)
    settings = Train(epochs=1, batch_beads=packed.beads, decoy_fraction=0.0)
    model = Model(name="allegro", cutoff_A=CUTOFF_A)
    facts = {**model.model_dump(), "avg_neighbors": mean_neighbors(frames, CUTOFF_A)}
    matching = Matching(
        network_term(facts), SumOfTerms(()), settings, settings, lambda step: 1e-4, mesh_of(jax.devices()[:1])
    )
    reading = Reading(Loader().buffer_frames, 4, 0)
    batches = {
        "packed": [batch for _, batch in each(sweep(frames, packed, reading))],
        "padded": padded_batches(frames, padded),
    }
    seconds = step_seconds(matching, {name: made[0] for name, made in batches.items()})
    epoch = {name: seconds[name] * len(made) for name, made in batches.items()}
    result: dict[str, Any] = {
        "benchmark": "mixed_lengths",
        "frames": len(frames),
        "residues": {
            "shortest": int(beads.min()),
            "median": float(np.median(beads)),
            "longest": int(beads.max()),
        },
        "budgets": {"packed": packed._asdict(), "padded": padded._asdict()},
        "batches": {name: len(made) for name, made in batches.items()},
        "edge_slots_used": {name: used(made) for name, made in batches.items()},
        "seconds_per_step": {name: round(value, 4) for name, value in seconds.items()},
        "epoch_seconds": {name: round(value, 2) for name, value in epoch.items()},
        "padded_over_packed": round(epoch["padded"] / epoch["packed"], 2),
        "waiting_share": waiting(matching, frame_set(frames.domains[:80], False, CUTOFF_A), settings),
    }
    print(json.dumps(result, indent=1))


def chains(count: int, rng: np.random.Generator) -> Sequence[Domain]:
    """One frame each of so many proteins: a compact random walk of steps of 3.8 Å within its globule."""
    made = []
    while len(made) < count:
        n = round(float(rng.lognormal(np.log(131), 0.5)))
        if not 50 <= n <= 500:
            continue
        arrays = {
            "positions": globule(n, rng)[None].astype(np.float32),
            "forces": 10.0 * rng.standard_normal((1, n, 3)),
            "temperature_K": np.full(1, 300.0),
            "replica": np.zeros(1, int),
            "frame": np.zeros(1, int),
            "validation": np.zeros(1, bool),
        }
        topology = topology_from_species(rng.integers(0, 20, n))
        made.append(in_memory(f"chain{len(made)}", topology, arrays))
    return made


def globule(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 3) Å: one residue per 135 Å³ within a sphere, on a jittered lattice along a space-filling line."""
    side = int(np.ceil(n ** (1 / 3)))
    order = np.array(
        [
            (i, j if i % 2 == 0 else side - 1 - j, k if (i * side + j) % 2 == 0 else side - 1 - k)
            for i in range(side)
            for j in range(side)
            for k in range(side)
        ][:n]
    )
    return 135 ** (1 / 3) * order + 0.3 * rng.standard_normal((n, 3))


def padded_batches(frames: FrameSet, budget: Budget) -> list[Batch]:
    """FRAMES frames each, in the order they are stored."""
    source = FrameSource(frames, None, 0, 1, AS_THEY_ARE, (0, 1))
    made = []
    for begin in range(0, len(frames), FRAMES):
        items = [source.item(row) for row in range(begin, min(begin + FRAMES, len(frames)))]
        made.append(make_batch(items, [frames.domains[i.domain].topology for i in items], budget))
    return made


def used(batches: Sequence[Batch]) -> float:
    """Share of edge slots that hold an edge."""
    return round(float(np.mean([np.mean(b.neighbors.edge_mask) for b in batches])), 4)


def step_seconds(matching: Matching, firsts: dict[str, Batch]) -> dict[str, float]:
    """Median seconds of a compiled step on each batch, in turns."""
    state = matching.init(single(matching.network.init(jax.random.key(0))))
    compiled, lanes = {}, {}
    for name, batch in firsts.items():
        lanes[name] = Lanes(jax.tree.map(lambda leaf: leaf[None], slim(batch)), np.zeros(1, np.float32))
        compiled[name] = jax.jit(matching.step).lower(state, lanes[name], {}).compile()
    times: dict[str, list[float]] = {name: [] for name in firsts}
    for _ in range(STEPS):
        for name, run in compiled.items():
            begin = time.perf_counter()
            jax.block_until_ready(run(state, lanes[name], {}))
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def waiting(matching: Matching, frames: FrameSet, settings: Train) -> float:
    """Share of an epoch that is spent on waiting for batches, its first update left out."""
    task = Task(matching.network, matching.prior, {}, frames, frames)
    epochs = settings.model_copy(update={"epochs": 2})
    *_, last = fit(task, epochs, Loader())
    return round(last.progress.log[-1].waiting, 4)


if __name__ == "__main__":
    main()
