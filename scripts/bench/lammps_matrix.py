"""LAMMPS against JAX for every network, length, number of chains and boundary: one JSON line a row.

    python scripts/bench/lammps_matrix.py --out matrix.jsonl [--networks mace] [--beads 10 50] ...

Each row is a random network of some kcal/mol/Å on top of a whole prior (bond, walled angle spline, damped
dihedral, repulsion, excluded volume from 2 to 5, screened charges), written as a bundle and run in fresh
processes (averages: in one), with float32 networks:
  forces     step 0 and after --steps sorted steps of Langevin dynamics, on 1 and on 2 processes, against JAX
             in float64: largest difference over the rms force. Periodic rows start across a corner of the
             box; `empty` is a run on 2 processes of which the first owns no bead.
  drift      slope of the total energy in NVE, kcal/mol/ns for 50 beads, with the standard error of the fit,
             from the end of --equilibration-steps with a thermostat after a minimisation; warmer_K: the
             second half over the first. Velocity Verlet keeps an energy that differs from this one by
             order dt² (Hairer, Lubich & Wanner, Acta Numerica 12, 399, 2003), which changes while a
             molecule folds and warms; less_warming: with the temperature as a second column of the fit
  averages   temperature, potential energy and radius of gyration of 5,000 Langevin steps after 1,000, over
             replicas, beside those of the JAX engine from the same start; difference over its standard error.
             Both boundaries of a command share what JAX found
Rows that the file already holds are not run again. --networks none: the prior alone. --table: what the file
holds as a Markdown table, nothing is run.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

TEMPERATURE_K, TIMESTEP_FS, FRICTION_PER_PS = 300.0, 2.0, 1.0
NETWORK_CUTOFF_A = 10.0
SIZES = {
    "allegro": {"channels": 4, "hidden": 8, "layers": 2, "l_max": 1, "n_bessel": 6},
    "mace": {
        "channels": 4, "hidden": 8, "layers": 2, "l_max": 2, "l_hidden": 1, "correlation": 2, "n_bessel": 6,
    },
    "painn": {"hidden": 16, "layers": 2, "n_bessel": 6},
}  # fmt: skip
FORCE_RMS = 3.0
"""Random networks are scaled until their forces at the start have about this rms, kcal/mol/Å."""
LINEAR = {"allegro": ("energy_1",), "mace": ("readout_0", "energy_1"), "painn": ("energy_1",)}
"""Parameters that the energy is linear in. For the drift only they are scaled: all of them make a network so
steep in places that 2 fs is too long for it, and its energy says nothing about LAMMPS."""
SAMPLE_EVERY = 10
MINIMIZATION_STEPS = 2000
EQUILIBRATION_STEPS = {10: 35_000, 50: 20_000, 200: 26_000}
DRIFT_STEPS = {10: 60_000, 50: 25_000, 200: 15_000}
REPLICAS = {10: 12, 50: 6, 200: 3}
LONGEST_S = 3600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=[*SIZES], choices=[*SIZES, "none"])
    parser.add_argument("--beads", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--chains", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--boundaries", nargs="+", default=["s", "p"])
    parser.add_argument("--checks", nargs="+", default=["forces"], choices=["forces", "drift", "averages"])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--parallel-steps", type=int, help="on 2 processes (default: as many)")
    parser.add_argument("--drift-steps", type=int, help=f"default by beads: {DRIFT_STEPS}")
    parser.add_argument("--equilibration-steps", type=int, help=f"before the drift; {EQUILIBRATION_STEPS}")
    parser.add_argument(
        "--equilibration-friction", type=float, default=1.0, help="1/ps; less: it moves faster"
    )
    parser.add_argument("--equilibration-timestep-fs", type=float, default=6.0)
    parser.add_argument(
        "--replicas", type=int, help=f"of the averages, in each engine; default by beads: {REPLICAS}"
    )
    parser.add_argument("--seed", type=int, default=11, help="of the averages; rows of one size share it")
    parser.add_argument("--table", action="store_true", help="print the table of --out")
    wanted = parser.parse_args()
    wanted.out.touch()
    held = [json.loads(line) for line in wanted.out.read_text().splitlines()]
    if wanted.table:
        print(table(held))
        return
    done = {tuple(row["row"]) for row in held}
    for beads, network, chains in itertools.product(wanted.beads, wanted.networks, wanted.chains):
        with tempfile.TemporaryDirectory() as folder:
            cases: dict[bool, Case] = {}
            for boundary, check in itertools.product(wanted.boundaries, wanted.checks):
                row, smooth = (check, network, beads, chains, boundary), check == "drift"
                if row in done:
                    continue
                start = time.perf_counter()
                if smooth not in cases:
                    cases[smooth] = Case(network, beads, chains, Path(folder) / str(smooth), smooth=smooth)
                cases[smooth].place(boundary)
                found = CHECKS[check](cases[smooth], wanted)
                line = json.dumps({"row": row, **found, "seconds": round(time.perf_counter() - start, 1)})
                with wanted.out.open("a") as file:
                    file.write(line + "\n")
                print(line, flush=True)


def for_size(choices: dict[int, int], beads: int) -> int:
    """What is chosen for the largest number of beads that is not above this one."""
    return choices[max((n for n in choices if n <= beads), default=min(choices))]


def table(rows: list[dict]) -> str:
    """A line for each molecule, a column for each check and network: the largest relative error; the slope
    and its standard error; differences in standard errors of temperature, potential energy and Rg."""
    held = {tuple(row["row"]): cell(row) for row in rows}
    columns = sorted({key[:2] for key in held}, key=lambda key: ([*CHECKS].index(key[0]), key[1]))
    lines = [["beads", "chains", "boundary", *(f"{check}, {network}" for check, network in columns)]]
    lines.append(["---"] * len(lines[0]))
    for beads, chains, boundary in sorted({key[2:] for key in held}):
        cells = [held.get((*column, beads, chains, boundary), "") for column in columns]
        where = {"s": "free", "p": "periodic"}[boundary]
        lines.append([str(beads), str(chains), where, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(row: dict) -> str:
    """The result of a row in a few characters."""
    if row["row"][0] == "drift":
        return f"{row['kcal_mol_ns_per_50_beads']:.3f} ± {row['stderr']:.3f}"
    if row["row"][0] == "averages":
        parts = [part["standard_errors"] for part in row.values() if isinstance(part, dict)]
        return ", ".join(f"{part:.1f}" for part in parts)
    runs = [part for part in row.values() if isinstance(part, dict)]
    return f"{max(max(run['relative_error']) for run in runs):.1e}"


class Case:
    """One molecule and model, written as a bundle; and where it is run: the boundary, LAMMPS files of their
    own in a periodic box, the folder of what is written. What JAX found is kept: it knows no box."""

    def __init__(
        self,
        network: str,
        beads: int,
        chains: int,
        folder: Path,
        force_rms: float = FORCE_RMS,
        smooth: bool = False,
    ) -> None:
        from cgrefine.config.running import Export
        from cgrefine.energy import SumOfTerms
        from cgrefine.export.bundle import write_bundle
        from cgrefine.fm.priors.terms import prior_terms
        from cgrefine.system import topology_from_species

        rng = np.random.default_rng(beads + 7 * chains)
        self.folder, self.jax_rows = folder, None
        breaks = [beads * k // chains for k in range(1, chains)]
        self.topology = topology_from_species(rng.integers(0, 20, beads), breaks=breaks)
        self.start = molecule(beads, breaks, rng)
        self.model = SumOfTerms(prior_terms(PRIORS))
        self.params = prior_parameters(rng)
        if network != "none":
            chosen = LINEAR[network] if smooth else None
            term, weights = scaled_network(network, self.topology, self.start, force_rms, chosen)
            self.params["network"] = weights
            self.model = SumOfTerms((*self.model.terms, term))
        self.facts = {"priors": PRIORS, "temperature_K": TEMPERATURE_K}
        settings = Export(reference_frames=1)
        write_bundle(
            folder / "bundle", self.model, self.params, self.topology, self.start[None], "case", settings,
            self.facts,
        )  # fmt: skip
        self.place("s")

    def place(self, boundary: str) -> None:
        """From now on at this boundary."""
        self.boundary, self.runs = boundary, self.folder / boundary
        self.runs.mkdir(parents=True, exist_ok=True)
        self.files = self.placed(0.5) if boundary == "p" else None

    def placed(self, where: float) -> Path:
        """LAMMPS files with the molecule moved along the diagonal of the box by this share of it."""
        from cgrefine.export.lammps_native import MODEL, SCRIPT, write_files

        files = self.folder / f"files_{where}"
        if files.exists():
            return files
        box_A = max(2.2 * self.model.cutoff_A, float(np.ptp(self.start, axis=0).max()) + 30.0)
        box_A *= 1.0 if where == 0.5 else 2.5
        write_files(files, self.model, self.params, self.topology, self.start, "case", box_A=box_A)
        script = files / SCRIPT
        move = f"include {MODEL}\ndisplace_atoms all move " + " ".join(f"$({where}*l{c})" for c in "xyz")
        script.write_text(script.read_text().replace(f"include {MODEL}", move))
        return files

    def settings(self, steps: int, **others):
        from cgrefine.export.lammps_settings import RunSettings

        settings = RunSettings(steps, TIMESTEP_FS, TEMPERATURE_K, FRICTION_PER_PS, boundary=self.boundary)
        return replace(settings, **others)

    def errors(self, result) -> list[float]:
        """Of the two frames of a run: largest force difference from JAX in float64, over the rms force."""
        from cgrefine.export.verify import model_force_errors

        found = model_force_errors(self.model, self.params, self.topology, result.positions, result.forces)
        return [error.relative for error in found]


def forces(case: Case, wanted) -> dict:
    from cgrefine.export.lammps_launch import launch

    found = {}
    bundle, settings = case.folder / "bundle", case.settings(wanted.steps)
    parallel = replace(settings, steps=wanted.parallel_steps or wanted.steps)
    for ranks, chosen in ((1, settings), (2, parallel)):
        (result,) = launch(
            bundle,
            chosen,
            case.runs / f"run_{ranks}.npz",
            ranks=ranks,
            timeout_s=LONGEST_S,
            files=case.files,
        )
        found[f"ranks_{ranks}"] = described(case, result)
    if case.boundary == "p":
        aside = case.placed(0.25)
        out = case.runs / "empty.npz"
        (result,) = launch(bundle, parallel, out, ranks=2, timeout_s=LONGEST_S, files=aside)
        found["empty"] = {**described(case, result), "fewest_beads": result.fewest}
    return found


def described(case: Case, result) -> dict:
    return {
        "relative_error": [float(f"{error:.3g}") for error in case.errors(result)],
        "start_error": float(f"{result.start_error:.3g}"),
        "steps": int(np.ptp(result.steps)),
        "orders": result.distinct_orders,
        "us_per_step": round(result.us_per_step, 1),
    }


def drift(case: Case, wanted) -> dict:
    """Slope of the total energy, kcal/mol/ns for 50 beads, at constant energy from the end of a thermostatted
    run: a random network's energy at the start is far above that of the temperature."""
    from cgrefine.export.lammps_launch import launch

    series, restart = case.runs / "series.txt", case.runs / "thermal.restart"
    thermal = case.settings(
        wanted.equilibration_steps or for_size(EQUILIBRATION_STEPS, case.topology.n_beads),
        timestep_fs=wanted.equilibration_timestep_fs,
        friction_per_ps=wanted.equilibration_friction,
        restart_out=restart,
        minimize=MINIMIZATION_STEPS,
    )
    steps = wanted.drift_steps or for_size(DRIFT_STEPS, case.topology.n_beads)
    nve = case.settings(steps, ensemble="nve", series=series, sample_every=SAMPLE_EVERY)
    for settings, name in ((thermal, "thermal.npz"), (replace(nve, restart=restart), "nve.npz")):
        (result,) = launch(
            case.folder / "bundle", settings, case.runs / name, timeout_s=LONGEST_S, files=case.files
        )
    step, kelvin, _, total, _ = np.loadtxt(series).T
    time_ns = step * TIMESTEP_FS * 1e-6
    per_50 = 50.0 / case.topology.n_beads
    # Neighbouring values are not independent: the fits are to the means of twenty blocks.
    columns = np.stack([time_ns, kelvin, np.ones(len(time_ns)), total], axis=1)
    means = np.array([block.mean(axis=0) for block in np.array_split(columns, 20)])
    slope, error = fitted(means[:, [0, 2]], means[:, 3])
    steady, steady_error = fitted(means[:, :3], means[:, 3])
    first, second = np.array_split(kelvin, 2)
    return {
        "kcal_mol_ns_per_50_beads": float(f"{slope * per_50:.3g}"),
        "stderr": float(f"{error * per_50:.3g}"),
        "less_warming": float(f"{steady * per_50:.3g}"),
        "less_warming_stderr": float(f"{steady_error * per_50:.3g}"),
        "std_kcal_mol": float(f"{total.std():.3g}"),
        "temperature_K": round(float(kelvin.mean()), 1),
        "warmer_K": round(float(second.mean() - first.mean()), 1),
        "ns": round(float(np.ptp(time_ns)), 4),
        "us_per_step": round(result.us_per_step, 1),
    }


def fitted(columns: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Coefficient of the first column (n, k) in a linear fit to values (n,), and its standard error."""
    found, *_ = np.linalg.lstsq(columns, values)
    left = values - columns @ found
    spread = left @ left / (len(values) - columns.shape[1]) * np.linalg.inv(columns.T @ columns)
    return float(found[0]), float(np.sqrt(spread[0, 0]))


def averages(case: Case, wanted) -> dict:
    replicas = wanted.replicas or for_size(REPLICAS, case.topology.n_beads)
    if case.jax_rows is None:
        case.jax_rows = by_jax(case, replicas, wanted.seed)
    rows = by_lammps(case, replicas, wanted.seed), case.jax_rows
    found = {"replicas": replicas}
    for k, name in enumerate(("temperature_K", "potential_kcal_mol", "gyration_A")):
        a, b = (engine[:, k] for engine in rows)
        error = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
        found[name] = {
            "lammps": round(float(a.mean()), 3),
            "jax": round(float(b.mean()), 3),
            "standard_errors": round(float((a.mean() - b.mean()) / error), 2),
        }
    return found


def by_lammps(case: Case, replicas: int, seed: int) -> np.ndarray:
    """Means of each replica over 5,000 steps after 1,000, (replicas, 3): K, kcal/mol, Å. In this process."""
    from cgrefine.export.bundle import load_bundle
    from cgrefine.export.lammps_run import run

    bundle, series = load_bundle(case.folder / "bundle", files=case.files), case.runs / "series.txt"
    rows = []
    for replica in range(replicas):
        run(bundle, case.settings(6000, series=series, sample_every=SAMPLE_EVERY, seed=seed + 1000 * replica))
        _, kelvin, potential, _, size = np.loadtxt(series)[101:].T
        rows.append([kelvin.mean(), potential.mean(), size.mean()])
    return np.array(rows)


def by_jax(case: Case, replicas: int, seed: int) -> np.ndarray:
    """The same of the JAX engine, of which the network has a list of its own edges, see `own_edges`."""
    import jax

    from cgrefine import units
    from cgrefine.config.running import Criteria
    from cgrefine.sim.langevin import Langevin
    from cgrefine.sim.rollout import rollout, settings
    from cgrefine.sim.stability import checks
    from cgrefine.system import pack

    system = pack([case.topology] * replicas)
    dt = units.from_fs(TIMESTEP_FS)
    run = settings(6000 * dt, SAMPLE_EVERY * dt, dt, case.model.cutoff_A, 100)
    limits = checks(system, np.full(len(system.bonds), 3.8), Criteria(**WIDE))
    start = np.tile(case.start - case.start.mean(axis=0), (replicas, 1)).astype(np.float32)
    kT = np.full(replicas, units.thermal_energy(TEMPERATURE_K), np.float32)
    chunks = list(
        rollout(
            own_edges(case.model, system, start), case.params, system, start, kT, jax.random.key(seed),
            Langevin(dt, units.from_per_ps(FRICTION_PER_PS)), run, limits,
        )
    )  # fmt: skip
    assert not chunks[-1].status.any(), chunks[-1].status
    kelvin, potential = (
        np.concatenate([getattr(c, name) for c in chunks])[100:].mean(axis=0)
        for name in ("temperature_K", "potential")
    )
    x = np.concatenate([c.positions for c in chunks])[100:].astype(np.float64)
    x = x.reshape(len(x), replicas, -1, 3)
    mass = system.mass[: case.topology.n_beads][None, None, :, None]
    centred = x - (mass * x).sum(axis=2, keepdims=True) / mass.sum()
    size = np.sqrt((mass * centred**2).sum(axis=(2, 3)) / mass.sum()).mean(axis=0)
    return np.stack([kelvin, potential, size], axis=1)


def own_edges(model, system, start: np.ndarray):
    """The model, its network on the edges within its own cutoff instead of those within that of the charges,
    of which these chains of 200 have four times as many. Not a number where they do not fit."""
    import jax.numpy as jnp

    from cgrefine import neighbors
    from cgrefine.energy import NetworkTerm, SumOfTerms
    from cgrefine.sim.forces import room_for

    networks = SumOfTerms(tuple(t for t in model.terms if isinstance(t, NetworkTerm)))
    others = SumOfTerms(tuple(t for t in model.terms if t not in networks.terms))
    if not networks.terms:
        return model
    cutoff_A, pairs = networks.cutoff_A, neighbors.candidates(system)
    room = room_for(start, pairs, cutoff_A, headroom=1.6)

    def bead_energies(params, positions, system, edges):
        own = neighbors.update(positions, pairs, cutoff_A, room)
        energies = networks(params, positions, system, own) + others(params, positions, system, edges)
        return jnp.where(own.overflow, jnp.nan, energies)

    return bead_energies


CHECKS = {"forces": forces, "drift": drift, "averages": averages}

WIDE = {
    "bond_deviation_A": 2.0, "second_neighbor_min_A": 0.5, "overlap_min_A": 0.5,
    "max_force_kcal_mol_A": 1e5, "max_kinetic_kT": 200.0, "size_limits": False,
}  # fmt: skip

PAIR = {"kind": "pair", "min_separation": 3, "max_separation": None}
PRIORS = {
    "terms": [
        {"name": "bond", "kind": "bond", "form": "harmonic", "classes": "class"},
        {
            "name": "angle", "kind": "angle", "form": "spline", "classes": "class",
            "low": 1.4, "high": 2.6, "wall_k": 60.0, "wall_ramp": 0.035,
        },
        {
            "name": "dihedral", "kind": "dihedral", "form": "fourier", "classes": "class",
            "damping": [2.617993877991494, 3.141592653589793],
        },
        {
            **PAIR, "name": "repulsion", "form": "power", "epsilon": 1.0, "exponent": 12,
            "shift_order": 2, "cutoff_A": 7.0,
        },
        {
            **PAIR, "name": "excluded_volume", "form": "power", "epsilon": 1.0, "exponent": 12,
            "shift_order": 2, "cutoff_A": 7.0, "min_separation": 2, "max_separation": 5,
        },
        {
            **PAIR, "name": "electrostatics", "form": "debye_huckel", "dielectric": 78.5,
            "debye_length_A": 8.0, "cutoff_A": 20.0,
        },
    ]
}  # fmt: skip


def prior_parameters(rng) -> dict:
    from cgrefine.residues import species_from_sequence

    knots = np.linspace(-1.0, 1.0, 15) ** 2
    charge = np.zeros(20)
    charge[species_from_sequence("DEKR")] = [-1.0, -1.0, 1.0, 1.0]
    return {
        "bond": {"k": np.array([150.0, 140.0, 130.0]), "x0": np.array([3.8, 3.85, 2.95])},
        "angle": {"coefficients": 6.0 * knots + 0.3 * rng.normal(size=(5, 15))},
        "dihedral": {"cos": 0.3 * rng.normal(size=(3, 3)), "sin": 0.3 * rng.normal(size=(3, 3))},
        "repulsion": {"sigma": np.full((20, 20), 3.9)},
        "excluded_volume": {"sigma": np.full((20, 20), 3.6)},
        "electrostatics": {"charge": charge},
    }


def molecule(beads: int, breaks: list[int], rng) -> np.ndarray:
    """Beads (n, 3) Å of chains that wander within a ball: bonds of 3.8 Å, angles of 90 to 135 degrees, no two
    beads closer than 4.3 Å but neighbours. A crowded end is grown again."""
    radius = 4.5 * beads ** (1.0 / 3.0) + 6.0
    x, i = np.zeros((beads, 3)), 0
    while i < beads:
        first = max([0, *[b for b in breaks if b <= i]])
        for _ in range(200):
            step = rng.normal(size=3)
            step /= np.linalg.norm(step)
            bend = step @ (x[i - 1] - x[i - 2]) / 3.8 if i - first >= 2 else 0.35
            if i == first:
                x[i] = radius * rng.uniform() ** 0.33 * step if i else 0.0
            else:
                x[i] = x[i - 1] + 3.8 * step
            far = np.linalg.norm(x[: i - 1 if i > first else i] - x[i], axis=1)
            if 0.0 < bend < 0.7 and (far > 4.3).all() and np.linalg.norm(x[i]) < radius:
                i += 1
                break
        else:
            i = max(first, i - 5)
    return x


def scaled_network(name: str, topology, start: np.ndarray, force_rms: float, chosen: tuple[str, ...] | None):
    """A random network as a term and its parameters, those chosen (None: all of them) scaled until the rms of
    its forces is about this."""
    import jax

    from cgrefine.config.training import Model
    from cgrefine.energy import SumOfTerms
    from cgrefine.export.verify import term_values
    from cgrefine.fm.models.registry import network_term

    section = Model.model_validate({"name": name, "cutoff_A": NETWORK_CUTOFF_A, **SIZES[name]})
    facts = {**section.model_dump(), "avg_neighbors": 8.0}
    term = network_term(facts)
    params = term.init(jax.random.key(1))

    def scaled(scale: float):
        def leaf(path, value):
            acts = chosen is None or any(part.key in chosen for part in path)
            return np.asarray(scale * value if acts else value)

        return jax.tree_util.tree_map_with_path(leaf, params)

    def rms(scale: float) -> float:
        values = term_values(SumOfTerms((term,)), {"network": scaled(scale)}, topology, start[None])
        return float(np.sqrt(np.mean(values["network"].forces ** 2)))

    scale = 1.0
    while rms(scale) < force_rms and (chosen or scale < 20.0):
        scale *= 1.1
    while rms(scale) > 2.0 * force_rms:
        scale /= 1.1
    return term, scaled(scale)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
