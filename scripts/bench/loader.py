"""Speed, memory and packing of the loader on a synthetic store of mdCATH-like lengths; prints JSON.

Domains of 50-500 residues (log-normal, median 131, sigma 0.5), compact chains with one residue per 135 Å³,
coordinates on the 0.01 Å grid as int16 and forces as float16: 12 bytes a residue-frame. One epoch is packed
with each number of workers; nothing is done with the batches. The store is kept in --folder, if given.

    python scripts/bench/loader.py --folder /tmp/loader_store
"""

import argparse
import hashlib
import itertools
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
import vesin

from cgrefine.data.frames import FrameSet, frame_set, sampled_sizes
from cgrefine.data.loader import Decoys, Packed, Reading, Recipe, training_batches
from cgrefine.data.packing import Budget, budget_for
from cgrefine.data.store import open_dataset, write_domain, write_index
from cgrefine.neighbors import frame_edges
from cgrefine.system import topology_from_species

SPACING_A = (3.8, 5.96, 5.96)
"""Along the chain and between its strands: 135 Å³ a residue."""

CUTOFF_A = 12.0
DECOYS = Recipe(Decoys(0.1, 0.5, 0.1))
WARM_BATCHES = 100
"""Made before the clock is started: worker processes take seconds to import what they need."""

BUFFER_FRAMES, PREFETCH, EDGE_HEADROOM = 256, 4, 1.05


def main() -> None:
    """Make the store where it is missing, run all measurements and print them."""
    parser = argparse.ArgumentParser(description="Measure the loader.")
    parser.add_argument("--folder", type=Path, help="where the store is kept (default: a temporary folder)")
    parser.add_argument("--residue-frames", type=float, default=20e6)
    parser.add_argument("--frames", type=int, default=250, help="frames a domain")
    parser.add_argument("--batch-beads", type=int, default=4096)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--restored-batches", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        made = 0.0 if (folder / "dataset.json").exists() else make_store(folder, args)
        begin = time.perf_counter()
        dataset = open_dataset(folder)
        opened = time.perf_counter() - begin
        frames = frame_set(dataset.domains, False, CUTOFF_A)
        budget = budget_for([frames], args.batch_beads, EDGE_HEADROOM)
        result = {
            "domains": len(dataset.domains),
            "frames": len(frames),
            "residue_frames": frames.total_beads,
            "store_seconds": round(made, 1),
            "open_seconds": round(opened, 3),
            "budget": budget._asdict(),
            "use_if_padded_to_the_longest": padded_use(frames),
            "epoch": [epoch(frames, budget, workers) for workers in args.workers],
            "restored": restored(frames, budget, args.workers, args.restored_batches),
            "edges_microseconds_of_cpu": edge_times(),
            "load_average_at_the_end": os.getloadavg()[0],
            "cpu_cores": os.cpu_count(),
        }
    print(json.dumps(result, indent=2))


def make_store(folder: Path, args: argparse.Namespace) -> float:
    """Write the store; seconds."""
    begin, rng = time.perf_counter(), np.random.default_rng(0)
    entries, total = [], 0
    while total < args.residue_frames:
        n = round(float(rng.lognormal(np.log(131), 0.5)))
        if not 50 <= n <= 500:
            continue
        total += n * args.frames
        positions = chain_frames(n, args.frames, rng)
        runs = np.arange(args.frames) * 25 // args.frames
        arrays = {
            "positions": positions,
            "forces": (20.0 * rng.standard_normal(positions.shape, np.float32)),
            "temperature_K": np.array([320.0, 348.0, 379.0, 413.0, 450.0])[runs // 5],
            "replica": runs % 5,
            "frame": np.arange(args.frames) - np.searchsorted(runs, runs),
            "validation": np.zeros(args.frames, bool),
        }
        topology = topology_from_species(rng.integers(0, 20, n))
        name = f"s{len(entries):04d}"
        entries.append(write_domain(folder, name, topology, arrays, {}, positions="int16", forces="float16"))
    write_index(folder, entries, {})
    return time.perf_counter() - begin


def chain_frames(n: int, n_frames: int, rng: np.random.Generator) -> np.ndarray:
    """(f, n, 3) float32 on the 0.01 Å grid: strands laid side by side in a compact block, then shaken.

    Each frame is turned, stretched by 4 % (which spreads its edges by about 12 %) and shaken by 1 Å.
    """
    strand = max(round((135.0 * n) ** (1 / 3) / SPACING_A[0]), 1)
    wide = max(round((135.0 * n) ** (1 / 3) / SPACING_A[1]), 1)
    i = np.arange(n)
    row, layer = i // strand % wide, i // (strand * wide)
    along = np.where((i // strand) % 2 == 0, i % strand, strand - 1 - i % strand)
    across = np.where(layer % 2 == 0, row, wide - 1 - row)
    x = np.column_stack([along, across, layer]) * SPACING_A
    turns = np.linalg.qr(rng.standard_normal((n_frames, 3, 3)))[0]
    stretch = 1.0 + 0.04 * rng.standard_normal((n_frames, 1, 1))
    frames = stretch * ((x - x.mean(0)) @ turns) + rng.standard_normal((n_frames, n, 3)) + 60.0
    return (np.rint(100.0 * frames) / 100.0).astype(np.float32)


def padded_use(frames: FrameSet) -> dict[str, float]:
    """Shares of beads and edge slots that are used when each frame is padded to the largest one."""
    beads, edges = sampled_sizes(frames, 5000)
    return {"beads": round(beads.mean() / beads.max(), 3), "edges": round(edges.mean() / edges.max(), 3)}


def batches_of(frames: FrameSet, budget: Budget, workers: int, share: tuple[int, int] = (0, 1)) -> Any:
    """The pipeline of epoch 1."""
    reading = Reading(BUFFER_FRAMES, PREFETCH, workers, share)
    return training_batches(frames, budget, 0, 1, DECOYS, reading)


def epoch(frames: FrameSet, budget: Budget, workers: int) -> dict[str, Any]:
    """Pack one whole epoch: rate, CPU time, memory, and use of the budget. Workers' start is left out."""
    beads = edges = count = 0
    anonymous: list[int] = []
    with closing(iter(batches_of(frames, budget, workers))) as running:
        for _ in itertools.islice(running, WARM_BATCHES):
            pass
        wall, cpu = time.perf_counter(), cpu_seconds()
        for _, batch in running:
            beads += int(np.count_nonzero(batch.system.bead_mask))
            edges += int(np.count_nonzero(batch.neighbors.edge_mask))
            count += 1
            if count % 50 == 0:
                anonymous.append(anonymous_bytes())
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    settled = anonymous[len(anonymous) // 10 :]
    return {
        "workers": workers,
        "batches": count,
        "residue_frames_per_second": round(beads / wall),
        "residue_frames_per_cpu_second": round(beads / cpu),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "bead_budget_use": round(beads / (count * budget.beads), 4),
        "edge_budget_use": round(edges / (count * budget.edges), 4),
        "anonymous_memory_MB_at_most": round(max(anonymous) / 1e6),
        "anonymous_memory_MB_growth": round((settled[-1] - settled[0]) / 1e6),
    }


def restored(
    frames: FrameSet, budget: Budget, all_workers: list[int], n_batches: int
) -> list[dict[str, Any]]:
    """Whether the batches after a state, saved in the middle and restored elsewhere, are the same bytes."""
    cases = [(workers, share) for workers in all_workers for share in ((0, 1), (0, 2), (1, 2))]
    found = []
    for workers, share in cases:
        dataset = batches_of(frames, budget, workers, share)
        with closing(iter(dataset)) as running:
            for _ in itertools.islice(running, 200):
                pass
            state = json.loads(json.dumps(running.get_state()))
            expected = list(digests(running, n_batches))
        with closing(iter(dataset)) as fresh:
            fresh.set_state(state)
            same = list(digests(fresh, n_batches)) == expected
        found.append({"workers": workers, "share": share, "batches": len(expected), "same_bytes": same})
    return found


def digests(running: Iterator[Packed], count: int) -> Iterator[str]:
    """sha256 of all arrays of the next batches."""
    for packed in itertools.islice(running, count):
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(packed):
            digest.update(np.ascontiguousarray(leaf).data)
        yield digest.hexdigest()


def edge_times(repeats: int = 15) -> dict[str, dict[str, int]]:
    """Median CPU time of the edges of one frame: ours, and a full cell list (vesin), in turns."""
    rng, times = np.random.default_rng(1), {}
    cells = vesin.NeighborList(cutoff=CUTOFF_A, full_list=True, sorted=True)
    box = np.zeros((3, 3))

    def cell_list(x: np.ndarray) -> Any:
        return cells.compute(points=x.astype(np.float64), box=box, periodic=False, quantities="ij")

    for n in (50, 131, 250, 500, 1000, 2000, 4000):
        x = chain_frames(n, 1, rng)[0]
        spent: dict[str, list[float]] = {"frame_edges": [], "vesin": []}
        for _ in range(repeats):
            for name, call in (("frame_edges", lambda x: frame_edges(x, CUTOFF_A)), ("vesin", cell_list)):
                begin = time.process_time()
                call(x)
                spent[name].append(time.process_time() - begin)
        times[str(n)] = {name: round(1e6 * statistics.median(v)) for name, v in spent.items()}
    return times


def processes() -> list[int]:
    """This process and its children."""
    children = [c for t in Path("/proc/self/task").iterdir() for c in (t / "children").read_text().split()]
    return [os.getpid(), *map(int, children)]


def anonymous_bytes() -> int:
    """Anonymous resident memory of all of them: what is not page cache."""
    total = 0
    for process in processes():
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return total


def cpu_seconds() -> float:
    """CPU time of all of them, ended children included."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total, tick = ended.ru_utime + ended.ru_stime, os.sysconf("SC_CLK_TCK")
    for process in processes():
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / tick
    return total


if __name__ == "__main__":
    main()
