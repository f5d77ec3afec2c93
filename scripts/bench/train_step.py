"""Cost of one force-matching step of each network on random compact chains; prints JSON.

    python scripts/bench/train_step.py [--networks default large concatenated] [--beads 50] [--frames 4]

A batch of --frames chains of --beads beads. The cutoff is chosen so that they have --edges directed edges a
frame on average, and the edge slots are those of the loader's default headroom. The step is that of training
(value and gradient of the force loss, AdaBelief with clipping), without priors. operations and temporary
memory are what XLA reports of the compiled program, on its slots; in_microbatches: of the program that takes
the same frames one after another.

Steps and products of float32 matrices 2048 × 2048 are timed in turns, medians over --rounds, in CPU seconds
of the process (per_cpu_second is so per core), so that other work on the machine does not count;
share_of_gemm is the rate of the step over that of the product in the same round. No XLA_FLAGS should be set.
Glibc hands the temporary memory of a step back to the system after each step and asks for it again:
with MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 it keeps it.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgrefine import system
from cgrefine.config.data import Loader
from cgrefine.config.training import Model, Train
from cgrefine.data.packing import Batch, Budget, Item, make_batch, slim
from cgrefine.energy import SumOfTerms
from cgrefine.fm import optimizers
from cgrefine.fm.devices import everywhere, mesh_of, shared_out
from cgrefine.fm.models.registry import network_term
from cgrefine.fm.step import Lanes, Matching
from cgrefine.fm.train import on_host, single
from cgrefine.neighbors import frame_edges

BOND_A, CONTACT_A, VOLUME_A3 = 3.8, 4.2, 135.0
"""Bond length, closest distance of other beads, and volume of a residue."""

GEMM = 2048

NETWORKS: dict[str, dict[str, Any]] = {
    "small": {"name": "allegro", "size": "small"},
    "default": {"name": "allegro"},
    "large": {"name": "allegro", "size": "large"},
    "wide": {"name": "allegro", "size": "large", "channels": 128, "hidden": 168, "parity": "o3"},
    "concatenated": {"name": "allegro", "size": "large", "products": "concatenated", "hidden": 200},
    "mace": {"name": "mace"},
    "painn": {"name": "painn"},
    "schnet": {"name": "schnet"},
}
"""Model sections of the configuration, without the cutoff. wide: as many channels as the peer, on its paths;
concatenated: so many parameters as large. MACE, PaiNN and SchNet have the widths of the default."""


class Compiled(NamedTuple):
    """A step that is ready to run: advance() runs it once and waits. facts: of the network and program."""

    advance: Callable[[], None]
    facts: dict[str, Any]


def main() -> None:
    """Compile all networks, time them in turns with the product of matrices, and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--beads", type=int, default=50)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--edges", type=int, default=614, help="directed edges a frame")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    chains = [compact_chain(given.beads, seed) for seed in range(given.frames)]
    cutoff_A = cutoff_for(chains, given.edges)
    batch = packed(chains, cutoff_A)
    neighbors = float(batch.neighbors.edge_mask.sum()) / (given.beads * given.frames)
    steps = {
        name: compiled({**NETWORKS[name], "cutoff_A": cutoff_A}, neighbors, batch, in_turn(chains, cutoff_A))
        for name in given.networks
    }
    report = {
        "benchmark": "train_step",
        "beads": given.beads,
        "frames": given.frames,
        "edges": int(batch.neighbors.edge_mask.sum()),
        "edge_slots": len(batch.neighbors.edge_mask),
        "cutoff_A": round(cutoff_A, 3),
        "devices": [str(device) for device in jax.devices()],
        "cpus": os.cpu_count(),
        "jax": jax.__version__,
        "malloc": {name: value for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **timed(steps, given.rounds),
        "load_average_at_the_end": os.getloadavg()[0],
    }
    print(json.dumps(report, indent=2))


def compact_chain(n: int, seed: int) -> np.ndarray:
    """A self-avoiding walk of n beads, (n, 3) Å, in a sphere of VOLUME_A3 a bead, regrown where crowded."""
    rng = np.random.default_rng(seed)
    radius = (3.0 * n * VOLUME_A3 / (4.0 * np.pi)) ** (1.0 / 3.0)
    x = np.zeros((n, 3))
    i = 1
    while i < n:
        directions = rng.normal(size=(50, 3))
        tried = x[i - 1] + BOND_A * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        free = np.linalg.norm(tried, axis=1) < radius
        if i > 1:
            free &= np.linalg.norm(tried[:, None] - x[None, : i - 1], axis=-1).min(axis=1) > CONTACT_A
        if free.any():
            x[i] = tried[np.argmax(free)]
            i += 1
        else:
            i = max(i - 5, 1)
    return x


def cutoff_for(chains: list[np.ndarray], edges: int) -> float:
    """The cutoff, Å, within which chains have so many directed edges each on average."""
    pairs = np.sort(
        np.concatenate([np.linalg.norm(x[:, None] - x, axis=-1)[np.triu_indices(len(x), 1)] for x in chains])
    )
    count = edges * len(chains) // 2
    return float(pairs[count - 1 : count + 1].mean())


def in_turn(chains: list[np.ndarray], cutoff_A: float) -> list[Batch]:
    """A batch for each chain, all of one shape."""
    slots = max(len(frame_edges(x, cutoff_A)[0]) for x in chains)
    return [packed([x], cutoff_A, slots) for x in chains]


def packed(chains: list[np.ndarray], cutoff_A: float, least_slots: int = 0) -> Batch:
    """All chains in one batch, with random species and forces."""
    rng = np.random.default_rng(0)
    items, topologies = [], []
    for k, x in enumerate(chains):
        forces = rng.normal(size=x.shape).astype(np.float32)
        edges = frame_edges(x, cutoff_A)
        items.append(Item(k, k, 0, x.astype(np.float32), forces, *edges, 1.0, False, 300.0, math.nan))
        topologies.append(system.topology_from_species(rng.integers(0, 20, len(x))))
    wanted = max(int(Loader().edge_headroom * sum(item.n_edges for item in items)), least_slots)
    slots = 64 * -(-wanted // 64)
    return make_batch(items, topologies, Budget(sum(map(len, chains)), slots, len(chains)))


def compiled(section: dict[str, Any], neighbors: float, batch: Batch, parts: list[Batch]) -> Compiled:
    """The training step of this model section on the batch, compiled, from a new network.

    parts: the same frames as microbatches, for whose step the memory alone is asked.
    """
    facts = {**Model.model_validate(section).model_dump(), "avg_neighbors": neighbors}
    network, settings = network_term(facts), Train(epochs=1)
    rate = optimizers.schedule(settings, 1000)
    mesh = mesh_of(jax.local_devices()[:1])
    matching = Matching(network, SumOfTerms(()), settings, settings, rate, mesh)
    state = everywhere(on_host(matching.init(single(network.init(jax.random.key(0))))), mesh)
    on_device, micro = (shared_out(stacked(batches), mesh) for batches in ([batch], parts))
    step = jax.jit(matching.step, donate_argnums=0)
    lowered = step.lower(state, on_device, {})
    begin = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - begin
    in_parts = step.lower(state, micro, {}).compile().memory_analysis()
    memory, costs = program.memory_analysis(), program.cost_analysis()

    def advance() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(program(state, on_device, {}))

    return Compiled(
        advance,
        {
            "model": {k: v for k, v in facts.items() if k not in ("priors", "cutoff_A", "avg_neighbors")},
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "compile_seconds": round(seconds, 2),
            "gflop": round(costs["flops"] / 1e9, 2),
            "gbyte_accessed": round(costs["bytes accessed"] / 1e9, 2),
            "temporary_mb": round(memory.temp_size_in_bytes / 1e6, 1),
            "temporary_mb_in_microbatches": round(in_parts.temp_size_in_bytes / 1e6, 1),
        },
    )


def stacked(batches: list[Batch]) -> Lanes:
    """One lane each."""
    leaves = jax.tree.map(lambda *leaves: np.stack(leaves), *map(slim, batches))
    return Lanes(leaves, np.zeros(len(batches), np.float32))


def timed(steps: dict[str, Compiled], rounds: int) -> dict[str, Any]:
    """Medians over rounds in which every step and the product of matrices run in turn."""
    matrix = jnp.ones((GEMM, GEMM), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    work = {
        "gemm": lambda: jax.block_until_ready(multiply(matrix, matrix)),
        **{name: step.advance for name, step in steps.items()},
    }
    for once in work.values():
        once()
    rows = [{name: clocked(once) for name, once in work.items()} for _ in range(rounds)]
    gemm = [2e-9 * GEMM**3 / row["gemm"][0] for row in rows]
    networks = {}
    for name, step in steps.items():
        rates = [step.facts["gflop"] / row[name][0] for row in rows]
        networks[name] = {
            **step.facts,
            "seconds_per_step": round(statistics.median(row[name][1] for row in rows), 4),
            "cpu_seconds_per_step": round(statistics.median(row[name][0] for row in rows), 4),
            "gflop_per_cpu_second": round(statistics.median(rates), 1),
            "share_of_gemm": round(
                statistics.median(rate / top for rate, top in zip(rates, gemm, strict=True)), 3
            ),
        }
    return {"gemm_gflop_per_cpu_second": round(statistics.median(gemm), 1), "networks": networks}


def clocked(work: Callable[[], object], least_seconds: float = 0.3) -> tuple[float, float]:
    """CPU seconds and seconds of one call, over as many calls as take least_seconds."""
    cpu, begin, calls = time.process_time(), time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - begin < least_seconds:
        work()
        calls += 1
    return (time.process_time() - cpu) / calls, (time.perf_counter() - begin) / calls


if __name__ == "__main__":
    main()
