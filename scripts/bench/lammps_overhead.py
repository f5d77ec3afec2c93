"""Cost of a step in LAMMPS over that of the network alone, for chains of 10 to 500 beads, as JSON.

    python scripts/bench/lammps_overhead.py [--beads 10 50 100] [--network painn] [--rounds 5]

Four things are timed in turn, round by round, in one process, so that they see the same machine; medians
over rounds, µs:
  model     the compiled network called with edges that are there already: the bare model call
  call      the same with edges found, padded and positions centred, as the callback does it
  priors    a step of LAMMPS with the prior terms alone
  lammps    a step of LAMMPS with prior terms and network
  overhead  lammps less model, the median of the differences of one round
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--beads", type=int, nargs="+", default=[10, 25, 50, 100, 200, 500])
    parser.add_argument("--network", default="painn", choices=["allegro", "mace", "painn"])
    parser.add_argument("--steps", type=int, default=500, help="in each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    rows = [measured(wanted.network, n, wanted.steps, wanted.rounds) for n in wanted.beads]
    print(json.dumps({"benchmark": "lammps_overhead", "network": wanted.network, "rows": rows}))


def measured(network: str, beads: int, steps: int, rounds: int) -> dict:
    """Medians over rounds in which all run in turn."""
    from lammps_matrix import Case

    from cgrefine.energy import SumOfTerms
    from cgrefine.export.bundle import load_bundle
    from cgrefine.export.lammps_native import write_files
    from cgrefine.export.lammps_run import Deployment
    from cgrefine.neighbors import frame_edges, padded

    with tempfile.TemporaryDirectory() as folder:
        case = Case(network, beads, 1, "s", Path(folder))
        bundle = load_bundle(case.folder / "bundle")
        program = bundle.network
        assert program is not None
        x = case.start - case.start.mean(axis=0)
        edges = padded(*frame_edges(x, program.cutoff_A), program.n_edges)
        arguments = (
            x.astype(np.float32), program.species, edges.senders, edges.receivers, edges.edge_mask,
        )  # fmt: skip
        native = Path(folder) / "native"
        priors = SumOfTerms(case.model.terms[:-1])
        write_files(native, priors, case.params, case.topology, case.start, "case")
        species = case.topology.species
        settings = case.settings(steps)

        def model() -> float:
            return timed(lambda: [np.asarray(v) for v in program.compiled(*arguments)], steps)

        def call() -> float:
            return timed(lambda: program(x), steps)

        runs = {
            "model": model,
            "call": call,
            "priors": lambda: stepped(Deployment(native, None, species), settings),
            "lammps": lambda: stepped(Deployment(bundle.lammps, program, species), settings),
        }
        for run in runs.values():
            run()
        table = [{name: run() for name, run in runs.items()} for _ in range(rounds)]
    medians = {name: round(statistics.median(row[name] for row in table), 1) for name in runs}
    overhead = statistics.median(row["lammps"] - row["model"] for row in table)
    return {"beads": beads, "edges": program.n_edges, **medians, "overhead": round(overhead, 1)}


def timed(work, count: int) -> float:
    """Microseconds of one call."""
    start = time.perf_counter()
    for _ in range(count):
        work()
    return 1e6 * (time.perf_counter() - start) / count


def stepped(deployment, settings) -> float:
    """Microseconds of one step in LAMMPS."""
    from cgrefine.export.lammps_run import simulate

    found = simulate(deployment, settings)
    assert found is not None
    return found[1].us_per_step


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".lstrip()
    main()
