"""Cost of a step in LAMMPS over that of the network alone, for chains of 10 to 500 beads, a JSON line each.

    python scripts/bench/lammps_overhead.py [--beads 10 50 100] [--network allegro] [--rounds 5]

Timed in turn, round by round, in one process, so that they see the same machine; medians over rounds, µs:
  hot       the compiled network, called again and again with the same edges
  priors    a step of LAMMPS with the prior terms alone
  lammps    a step of LAMMPS with prior terms and network
  model     the part of that step which is the compiled network's, until its results are there
  overhead  lammps less model, of the same steps
  without_priors  overhead less priors: what it costs that LAMMPS runs the network
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
    parser.add_argument("--network", default="allegro", choices=["allegro", "mace", "painn"])
    parser.add_argument("--steps", type=int, default=500, help="in each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    for n in wanted.beads:
        row = measured(wanted.network, n, wanted.steps, wanted.rounds)
        print(json.dumps({"benchmark": "lammps_overhead", "network": wanted.network, **row}), flush=True)


def measured(network: str, beads: int, steps: int, rounds: int) -> dict:
    """Medians over rounds in which all run in turn."""
    import lammps_matrix

    from cgrefine.energy import SumOfTerms
    from cgrefine.export.bundle import load_bundle
    from cgrefine.export.lammps_native import write_files
    from cgrefine.export.lammps_run import Deployment

    with tempfile.TemporaryDirectory() as folder:
        # weak enough that float32 passes the self-test of a bundle at 500 beads too
        lammps_matrix.FORCE_RMS = 0.5
        case = lammps_matrix.Case(network, beads, 1, "s", Path(folder))
        bundle = load_bundle(case.folder / "bundle")
        program = bundle.network
        assert program is not None
        x = case.start - case.start.mean(axis=0)
        program(x)
        compiled, seconds = program.compiled, [0.0]
        native = Path(folder) / "native"
        priors = SumOfTerms(case.model.terms[:-1])
        write_files(native, priors, case.params, case.topology, case.start, "case")
        species = case.topology.species
        settings = case.settings(steps)

        def watched(*arguments):
            assert compiled is not None
            start = time.perf_counter()
            values = [np.asarray(v) for v in compiled(*arguments)]
            seconds.append(time.perf_counter() - start)
            return values

        def row() -> dict[str, float]:
            program.compiled = watched
            seconds.clear()
            for _ in range(steps):
                program(x)
            hot = 1e6 * statistics.mean(seconds)
            priors = stepped(Deployment(native, None, species), settings)
            seconds.clear()
            lammps = stepped(Deployment(bundle.lammps, program, species), settings)
            assert program.compiled is watched, "the network was compiled again: no room for the edges"
            # those of the dynamics: the forces of the start come before
            model = 1e6 * statistics.mean(seconds[-steps:])
            found = {"hot": hot, "priors": priors, "lammps": lammps, "model": model}
            return {**found, "overhead": lammps - model, "without_priors": lammps - model - priors}

        stepped(Deployment(bundle.lammps, program, species), settings)
        compiled = program.compiled
        table = [row() for _ in range(rounds)]
    medians = {name: round(statistics.median(r[name] for r in table), 1) for name in table[0]}
    return {"beads": beads, "edges": program.n_edges, **medians}


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
