"""Cost of a step in LAMMPS over that of a call of the model in JAX, for chains of 10 to 500 beads.

    python scripts/bench/lammps_overhead.py [--beads 10 50 100] [--network allegro] [--rounds 15]

A JSON line a length. Timed in turn, round by round, in one process, so that they see the same machine; µs:
  network   the exported program, float32, with the same edges again and again, results in NumPy
  program   what is compiled for LAMMPS: the same with all arithmetic around it (`network_program.around`)
  model     the exported program and all prior terms in JAX, one compiled function, lists given
  priors    a step of LAMMPS with the prior terms alone
  lammps    a step of LAMMPS with prior terms and network
  within    the part of that step which is the call of `program`, until its results are there
Calls of the first three alternate; steps are of the loop, without the set-up of a run. These are medians
over rounds, and so are the differences within a round, with their quartiles:
  over_model      lammps less model: what a step costs beyond a call of the model
  beyond_network  (lammps - within - priors) + (program - network): what interpreter, LAMMPS and their cold
                  caches, lists of edges and arithmetic around the network take
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
    parser.add_argument("--steps", type=int, default=100, help="in each measurement")
    parser.add_argument("--rounds", type=int, default=15)
    wanted = parser.parse_args()
    for n in wanted.beads:
        row = measured(wanted.network, n, wanted.steps, wanted.rounds)
        print(json.dumps({"benchmark": "lammps_overhead", "architecture": wanted.network, **row}), flush=True)


def measured(network: str, beads: int, steps: int, rounds: int) -> dict:
    """Medians over rounds in which all run in turn."""
    import lammps_matrix

    from cgrefine.energy import SumOfTerms
    from cgrefine.export.bundle import load_bundle
    from cgrefine.export.lammps_native import write_files
    from cgrefine.export.lammps_run import Deployment

    with tempfile.TemporaryDirectory() as folder:
        # weak enough that float32 passes the self-test of a bundle at 500 beads too
        case = lammps_matrix.Case(network, beads, 1, Path(folder), force_rms=0.5)
        bundle = load_bundle(case.folder / "bundle")
        program = bundle.network
        assert program is not None
        x = case.start - case.start.mean(axis=0)
        program(x)
        native = Path(folder) / "native"
        priors = SumOfTerms(case.model.terms[:-1])
        write_files(native, priors, case.params, case.topology, case.start, "case")
        species = case.topology.species
        settings = case.settings(steps)

        stepped(Deployment(bundle.lammps, program, species), settings)
        alone, whole, arguments = in_jax(case, program, x)
        compiled, seconds = program.compiled, [0.0]

        def watched(*arguments):
            start = time.perf_counter()
            values = np.asarray(compiled(*arguments))
            seconds.append(time.perf_counter() - start)
            return values

        def row() -> dict[str, float]:
            calls = {"network": (alone, arguments), "model": (whole, arguments)}
            found = alternated({**calls, "program": (compiled, program.arguments(x))}, steps)
            found["priors"] = stepped(Deployment(native, None, species), settings)
            seconds.clear()
            program.compiled = watched
            found["lammps"] = stepped(Deployment(bundle.lammps, program, species), settings)
            assert program.compiled is watched, "the network was compiled again: no room for the edges"
            # those of the dynamics: the forces of the start come before
            found["within"] = 1e6 * statistics.mean(seconds[-steps:])
            return found

        table = [row() for _ in range(rounds)]
    differences = {
        "over_model": [r["lammps"] - r["model"] for r in table],
        "beyond_network": [
            r["lammps"] - r["within"] - r["priors"] + r["program"] - r["network"] for r in table
        ],
    }
    return {
        "beads": beads,
        "edges": program.n_edges,
        **{name: round(statistics.median(r[name] for r in table), 1) for name in table[0]},
        **{name: np.percentile(d, (50, 25, 75)).round(1).tolist() for name, d in differences.items()},
    }


def in_jax(case, program, x: np.ndarray):
    """The exported program alone and with the priors in JAX, float32, compiled, and their arguments at x."""
    import jax
    import jax.numpy as jnp

    from cgrefine import energy, neighbors
    from cgrefine.energy import SumOfTerms
    from cgrefine.export.bundle import STABLEHLO
    from cgrefine.export.program import cast_params, traceable
    from cgrefine.system import pack

    call = traceable((case.folder / "bundle" / STABLEHLO).read_bytes(), "cpu").call
    priors, system = SumOfTerms(case.model.terms[:-1]), pack([case.topology])
    params = cast_params({name: case.params[name] for name in case.params if name != "network"}, jnp.float32)
    listed = neighbors.exact(system, x, priors.cutoff_A)

    def whole(at, rest, *graph):
        energies, forces, virial = call(at, rest, *graph)
        of_priors, their_forces = energy.bead_energies_and_forces(priors, params, at, system, listed)
        return jnp.sum(energies) + jnp.sum(of_priors), forces + their_forces, virial

    edges = neighbors.padded(*neighbors.frame_edges(x, program.cutoff_A), program.n_edges)
    graph = jax.device_put((program.species, edges.senders, edges.receivers, edges.edge_mask))
    at = x.astype(np.float32)
    arguments = (at, (x - at).astype(np.float32), *graph)
    return *(jax.jit(function).lower(*arguments).compile() for function in (call, whole)), arguments


def alternated(calls, times: int) -> dict[str, float]:
    """Microseconds of a call of each, with its results in NumPy; they are called in turn."""
    import jax

    seconds = dict.fromkeys(calls, 0.0)
    for _ in range(times):
        for name, (function, arguments) in calls.items():
            start = time.perf_counter()
            [np.asarray(value) for value in jax.tree.leaves(function(*arguments))]
            seconds[name] += time.perf_counter() - start
    return {name: 1e6 * total / times for name, total in seconds.items()}


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
