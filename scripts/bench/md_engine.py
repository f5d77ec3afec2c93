"""What the MD engine costs beside the energy: share, listing, replicas, memory; and OpenMM. One JSON.

    python scripts/bench/md_engine.py [--sizes small default] [--shapes 32x50 8x269] [--memory 400]

network: Allegro of each size on the priors, R x L replicas and beads. In each round a batched evaluation
(energies and forces on a given list), the listing of neighbours, and some steps of `sim.rollout` run in turn;
times are CPU seconds of the process, which is bound to one core; medians over rounds. share_of_evaluation is
evaluation / step; overhead is step / (evaluation) - 1, listing included. replicas_over_one is the time of R
replicas over R times that of one. memory: resident MB after n and 4 n chunks of priors-only MD, records and
snapshots written as `simulate` does. openmm: replica-steps per second and core, its CPU platform
(one thread) with the same energy by its custom forces; the energies of the terms are compared before.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from priors_md import FACTS, WIDE, chain

CUTOFF_A = 10.0
CUTOFF_PRIORS_A = 6.5
TIMESTEP_FS = 4.0
STRIDE = 500


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", default=["small", "default"])
    parser.add_argument("--shapes", nargs="+", default=["32x50", "8x269"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="of each network in each round")
    parser.add_argument("--memory", type=int, default=400, help="chunks n")
    parser.add_argument("--openmm", type=int, nargs="*", default=[50, 73], help="beads")
    wanted = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    shapes = [tuple(int(n) for n in shape.split("x")) for shape in wanted.shapes]
    found: dict[str, Any] = {"benchmark": "md_engine", "timestep_fs": TIMESTEP_FS}
    found["network"] = [
        network(size, *shape, wanted.rounds, wanted.steps) for size in wanted.sizes for shape in shapes
    ]
    if wanted.memory:
        found["memory"] = memory(wanted.memory)
    found["openmm"] = [against_openmm(beads, 32, wanted.rounds) for beads in wanted.openmm]
    print(json.dumps(found))


def timed(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


SHARED: dict[str, Any] = {
    "terms": [
        {"name": "bond", "kind": "bond", "form": "harmonic", "classes": "global"},
        {"name": "angle", "kind": "angle", "form": "harmonic", "classes": "global"},
        {"name": "dihedral", "kind": "dihedral", "form": "fourier", "classes": "global", "damping": None},
        FACTS["terms"][-1],
    ]
}
"""Forms that OpenMM's custom forces can be given as they are."""

WAVES = [(0.4, -0.6), (-0.2, 0.1), (0.1, 0.05), (0.0, -0.1), (0.05, 0.0), (-0.02, 0.03)]
"""Coefficients of cos kφ and sin kφ, k = 1 ... 6, kcal/mol."""


def shared_parameters() -> dict:
    import numpy as np

    cosines, sines = np.array(WAVES).T
    return {
        "bond": {"k": np.array([150.0]), "x0": np.array([3.8])},
        "angle": {"k": np.array([12.0]), "x0": np.array([1.9])},
        "dihedral": {"cos": cosines[None], "sin": sines[None]},
        "repulsion": {"sigma": np.full((20, 20), 3.9)},
    }


def prior_parameters() -> dict:
    """Of the classes of FACTS; all of a kind the same, so that OpenMM needs one force each."""
    import numpy as np

    rng = np.random.default_rng(1)
    return {
        "bond": {"k": np.full(3, 150.0), "x0": np.full(3, 3.8)},
        "angle": {"coefficients": np.repeat(0.3 * rng.normal(size=(1, 24)), 5, axis=0)},
        "dihedral": {name: np.repeat(0.3 * rng.normal(size=(1, 6)), 3, axis=0) for name in ("cos", "sin")},
        "repulsion": {"sigma": np.full((20, 20), 3.9)},
    }


def network(size: str, replicas: int, beads: int, rounds: int, steps: int) -> dict:
    """Times of an evaluation, a listing and a step, and of a step of one replica."""
    import jax
    import numpy as np

    from cgrefine import energy, neighbors
    from cgrefine.config.training import Model
    from cgrefine.energy import SumOfTerms
    from cgrefine.fm.models.registry import network_term
    from cgrefine.fm.priors.terms import prior_terms
    from cgrefine.system import pack, topology_from_species

    facts = Model.model_validate({"name": "allegro", "cutoff_A": CUTOFF_A, "size": size}).model_dump()
    term = network_term({**facts, "avg_neighbors": 12.0})
    model = SumOfTerms((*prior_terms(FACTS), term))
    params = {**prior_parameters(), "network": term.init(jax.random.key(0))}
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    topology, x = topology_from_species(np.arange(beads) % 20), chain(beads).astype(np.float32)
    system, start = pack([topology] * replicas), np.tile(x, (replicas, 1))
    pairs = neighbors.candidates(system)
    used = int((((start[pairs.receivers] - start[pairs.senders]) ** 2).sum(-1) < CUTOFF_A**2).sum())
    # as the engine sizes its buffer
    capacity = min(256 * -(-3 * used // 512), len(pairs.senders))
    listing = jax.jit(lambda at: neighbors.update(at, pairs, CUTOFF_A, capacity))
    edges = listing(start)

    @jax.jit
    def evaluate(p, at, listed):
        """As many as steps, each from where the forces before pushed the beads, so that none is left out."""

        def one(at, _):
            force = energy.bead_energies_and_forces(model, p, at, system, listed)[1]
            return at + 1e-9 * force, None

        return jax.lax.scan(one, at, None, steps)[0]

    run = {
        "evaluation": lambda: jax.block_until_ready(evaluate(params, start, edges)),
        "listing": lambda: jax.block_until_ready(listing(start)),
        "step": advance(model, params, topology, x, replicas, steps),
        "step_of_one": advance(model, params, topology, x, 1, steps),
    }
    for work in run.values():
        work()
    rows = [
        {
            "evaluation": timed(run["evaluation"]) / steps,
            "listing": statistics.median(timed(run["listing"]) for _ in range(3)),
            "step": timed(run["step"]) / steps,
            "step_of_one": timed(run["step_of_one"]) / steps,
        }
        for _ in range(rounds)
    ]
    time_of = {name: statistics.median(row[name] for row in rows) for name in rows[0]}

    def ratio(over, under) -> float:
        return round(statistics.median(over(row) / under(row) for row in rows), 4)

    return {
        "size": size,
        "replicas": replicas,
        "beads": beads,
        "edges": used,
        "slots": capacity,
        "ms": {name: round(1e3 * t, 3) for name, t in time_of.items()},
        "share_of_evaluation": ratio(lambda r: r["evaluation"], lambda r: r["step"]),
        "share_of_listing": ratio(lambda r: r["listing"], lambda r: r["step"]),
        "overhead": round(ratio(lambda r: r["step"], lambda r: r["evaluation"]) - 1.0, 4),
        "replicas_over_one": ratio(lambda r: r["step"], lambda r: replicas * r["step_of_one"]),
    }


def advance(model, params, topology, x, replicas: int, steps: int):
    """A function that runs one chunk of so many steps."""
    chunks = iter(rollouts(model, params, topology, x, replicas, 1, steps, 1_000_000))
    return lambda: next(chunks)


def rollouts(model, params, topology, x, replicas, chunk, stride, frames, fast=None, every=1):
    """The chunks of a run of `frames` frames."""
    import jax
    import numpy as np

    from cgrefine import units
    from cgrefine.config.running import Criteria
    from cgrefine.sim.langevin import Langevin
    from cgrefine.sim.rollout import Settings, rollout
    from cgrefine.sim.stability import checks
    from cgrefine.system import pack

    system = pack([topology] * replicas)
    limits = checks(system, np.full(len(system.bonds), 3.8), Criteria(**WIDE))
    run = Settings(frames, stride, chunk, model.cutoff_A, check_every=every)
    kT = np.full(replicas, units.thermal_energy(320.0), np.float32)
    mover = Langevin(units.from_fs(TIMESTEP_FS), units.from_per_ps(1.0))
    start = np.tile(x, (replicas, 1)).astype(np.float32)
    return rollout(model, params, system, start, kT, jax.random.key(0), mover, run, limits, fast)


def memory(chunks: int) -> dict:
    """Resident MB after n and 4 n chunks in one process."""
    import numpy as np

    from cgrefine import checkpoint, dense
    from cgrefine.energy import SumOfTerms
    from cgrefine.fm.priors.terms import prior_terms
    from cgrefine.sim import records
    from cgrefine.sim.kernels import Fast
    from cgrefine.system import topology_from_species

    x, replicas = chain(50), 32
    topology, model, params = (
        topology_from_species([0] * 50),
        SumOfTerms(prior_terms(FACTS)),
        prior_parameters(),
    )
    fast = Fast(*dense.dense(model, params, topology, np.float32))
    kind, found = records.layout(50 * replicas, replicas), {}
    with tempfile.TemporaryDirectory() as folder:
        states = rollouts(model, params, topology, x, replicas, 10, 10, 40 * chunks, fast, 10)
        for number, chunk in enumerate(states, 1):
            records.append(Path(folder) / "frames", kind, 10 * (number - 1), chunk, 0.0, False)
            checkpoint.save_params(Path(folder) / "state.npz", checkpoint.named_leaves(chunk.snapshot))
            if number in (chunks, 4 * chunks):
                found[f"MB_after_{100 * number}_steps"] = round(resident_MB(), 1)
        found["records_MB"] = round((Path(folder) / "frames").stat().st_size / 1e6, 1)
    return found


def resident_MB() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def against_openmm(beads: int, replicas: int, rounds: int) -> dict:
    """Replica-steps per second and core of both, in turn."""
    import numpy as np

    from cgrefine import dense
    from cgrefine.energy import SumOfTerms
    from cgrefine.fm.priors.terms import prior_terms
    from cgrefine.sim.kernels import Fast
    from cgrefine.system import topology_from_species

    x, frames = chain(beads), 4
    topology, model = topology_from_species([0] * beads), SumOfTerms(prior_terms(SHARED))
    params = shared_parameters()
    fast = Fast(*dense.dense(model, params, topology, np.float32))
    context, integrator = openmm_context(x)
    compared = energies(x, context, model, params, topology)

    def ours() -> None:
        chunks = list(rollouts(model, params, topology, x, replicas, frames, STRIDE, frames, fast, 50))
        assert not chunks[-1].status.any(), chunks[-1].status

    ours()
    integrator.step(STRIDE)
    rows = []
    for _ in range(rounds):
        mine = frames * STRIDE * replicas / timed(ours)
        rows.append((mine, 8 * STRIDE / timed(lambda: integrator.step(8 * STRIDE))))
    return {
        "beads": beads,
        "replicas": replicas,
        "replica_steps_per_s_and_core": round(statistics.median(row[0] for row in rows)),
        "openmm": round(statistics.median(row[1] for row in rows)),
        "ratio": round(statistics.median(a / b for a, b in rows), 2),
        "energies_kcal_mol": compared,
    }


def openmm_context(x):
    """The energy of SHARED by custom forces on the CPU platform, one thread, and its Langevin integrator."""
    import openmm as mm
    from openmm import unit

    system, n = mm.System(), len(x)
    for _ in range(n):
        system.addParticle(110.0)
    kcal, nm = 4.184, 0.1
    bond = mm.CustomBondForce(f"{0.5 * 150.0 * kcal / nm**2}*(r-{3.8 * nm})^2")
    angle = mm.CustomAngleForce(f"{0.5 * 12.0 * kcal}*(theta-1.9)^2")
    waves = [f"{kcal * a}*cos({k}*theta)+{kcal * b}*sin({k}*theta)" for k, (a, b) in enumerate(WAVES, 1)]
    torsion = mm.CustomTorsionForce("+".join(waves))
    # epsilon ((σ/r)^n - e + n e ((r/r_c)² - 1)/2) with e = (σ/r_c)^n: value and slope vanish at the cutoff
    n_power, sigma, cutoff = 12, 3.9, CUTOFF_PRIORS_A
    edge = (sigma / cutoff) ** n_power
    pair = mm.CustomNonbondedForce(
        f"{kcal}*(({nm * sigma}/r)^{n_power}-{edge}+{0.5 * n_power * edge}*((r/{nm * cutoff})^2-1))"
    )
    pair.setNonbondedMethod(mm.CustomNonbondedForce.CutoffNonPeriodic)
    pair.setCutoffDistance(cutoff * nm)
    for i in range(n):
        pair.addParticle([])
        for add, width in ((bond.addBond, 2), (angle.addAngle, 3), (torsion.addTorsion, 4)):
            if i + width <= n:
                add(*range(i, i + width), [])
        for j in range(i + 1, min(i + 3, n)):
            pair.addExclusion(i, j)
    for group, force in enumerate((bond, angle, torsion, pair)):
        force.setForceGroup(group)
        system.addForce(force)
    integrator = mm.LangevinMiddleIntegrator(320.0, 1.0, 0.001 * TIMESTEP_FS)
    platform = mm.Platform.getPlatformByName("CPU")
    context = mm.Context(system, integrator, platform, {"Threads": "1"})
    context.setPositions(x * nm * unit.nanometer)
    context.setVelocitiesToTemperature(320.0, 1)
    return context, integrator


def energies(x, context, model, params, topology) -> dict:
    """kcal/mol of each term at a squeezed structure, in both; raises when they are not the same."""
    import jax
    import numpy as np
    from openmm import unit

    from cgrefine import energy, neighbors
    from cgrefine.system import pack

    rng = np.random.default_rng(2)
    squeezed = x * np.array([1.0, 1.0, 0.6]) + rng.normal(scale=0.2, size=x.shape)
    context.setPositions(0.1 * squeezed)
    system = pack([topology])
    with jax.enable_x64(True):
        edges = neighbors.exact(system, squeezed, model.cutoff_A)
        mine = jax.tree.map(np.asarray, energy.by_term(model, params, squeezed, system, edges))
    found = {}
    for group, name in enumerate(("bond", "angle", "dihedral", "repulsion")):
        state = context.getState(getEnergy=True, groups={group})
        theirs = state.getPotentialEnergy().value_in_unit(unit.kilocalories_per_mole)
        found[name] = [round(float(np.sum(mine[name][0])), 4), round(theirs, 4)]
        if not np.allclose(*found[name], rtol=1e-3, atol=1e-2):
            raise ValueError(f"{name}: {found[name]} kcal/mol are not the same energy")
    context.setPositions(0.1 * x)
    return found


if __name__ == "__main__":
    main()
