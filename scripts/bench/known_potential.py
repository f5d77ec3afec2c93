"""Does the trainer learn a mean force that is known, and at what rate? `prepare`, `priors`, `train`; JSON.

    python scripts/bench/known_potential.py [--frames 200 800 3200 12800] [--plot FILE.png] [--folder FOLDER]

The truth is `cgrefine.fm.known_potential`: forms of the priors, and contacts of each pair of species that no
prior has. Chains of random sequences are sampled with it by Langevin dynamics; Gaussian noise is added to
the forces, --noise times as large in variance as the force of the contacts. The commands see nothing else:
they prepare, fit priors to, and train on these, with other replicas of the same chains for validation. The
noise-free force is then compared with the learned one on frames of other replicas and of chains that no
command has seen: explained variance of all of it, and of what the fitted priors leave (bonds make the first
one easy). Where noise limits the fit, 1 minus it falls as 1/frames. No decoys: they hold the network to
zero beside the data, which is an error here.

Also, each from the same frames: noise that is ten times as large in variance on half of the species, with
and without train.loss.residue_weights, and on the hotter of two temperatures, with and without
temperature_weights. The ratio is that of mean squared errors of the mean force; `expected` is that of the
variances of a weighted mean, Σ w² v/(Σ w)² over Σ v/n², of n beads with noise v and weight w.

--fault shuffled gives each frame the force of another one, --fault sign turns the forces round: what the
numbers are when the trainer, or its data, are at fault.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from cgrefine import dense, energy, neighbors, residues, units
from cgrefine.artifacts import read_json
from cgrefine.cli.console import Console
from cgrefine.cli.stages import run_stage
from cgrefine.config.data import Loader
from cgrefine.config.load import parse
from cgrefine.config.running import Criteria
from cgrefine.data.frames import frame_set
from cgrefine.data.store import in_memory
from cgrefine.fm import forcefield
from cgrefine.fm.evaluate import evaluate
from cgrefine.fm.known_potential import KnownPotential, known_potential
from cgrefine.sim.kernels import Fast
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.rollout import Settings, rollout
from cgrefine.sim.stability import checks
from cgrefine.sim.starts import extended_chain
from cgrefine.status import Status
from cgrefine.system import Topology, pack, topology_from_species

LENGTHS = (18, 24)
TRAINING_CHAINS, NEW_CHAINS = 10, 2
TEMPERATURE_K, HOT_K = 300.0, 450.0
DEPTH_KCAL_MOL = 2.0

TIMESTEP_FS, FRICTION_PER_PS = 10.0, 0.5
STEPS_PER_FRAME, WARM_UP_FRAMES = 200, 20
REPLICAS = {"training": 32, "validation": 4, "test": 4}
"""Of each chain: frames of different parts are from different replicas."""
CRITERIA = Criteria(
    bond_deviation_A=1.5,
    second_neighbor_min_A=2.5,
    overlap_min_A=1.5,
    max_force_kcal_mol_A=1e4,
    max_kinetic_kT=50,
    size_limits=False,
)

CUTOFF_A = 9.0
N_BESSEL = 16
"""The contacts are narrower than the eight waves of the size small can follow."""

TIMES = 10.0
WEIGHTED_FRAMES = 1600
FAULTS = ("none", "shuffled", "sign")


class Sampled(NamedTuple):
    """One chain. positions, forces: by part, (f, n, 3) Å and kcal/mol/Å, without noise."""

    topology: Topology
    positions: dict[str, np.ndarray]
    forces: dict[str, np.ndarray]


def main() -> None:
    """Sample, learn at each size, compare weights, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[200, 800, 3200, 12800])
    parser.add_argument("--noise", type=float, default=4.0, help="variance over that of the contacts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of noise and network")
    parser.add_argument("--epochs", type=int, default=8, help="with the most frames; more with fewer")
    parser.add_argument("--size", default="small", help="of Allegro: small, default or large")
    parser.add_argument("--fault", choices=FAULTS, default="none")
    parser.add_argument("--no-weights", action="store_true", help="the learning curve alone")
    parser.add_argument("--train", default="{}", help="JSON over the section `train`")
    parser.add_argument("--folder", type=Path, help="keep all files here")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        result = measured(args, args.folder or Path(temporary))
    result["seconds"] = round(time.perf_counter() - begin, 1)
    if args.plot:
        figure(result).savefig(args.plot, dpi=110)
    print(json.dumps(result, indent=1))


class Noisy(NamedTuple):
    """Frames of all chains at one temperature, and the noise of their labels: variance (species,) of a
    component, (kcal/mol/Å)²."""

    temperature_K: float
    chains: Sequence[Sampled]
    variance: np.ndarray


def measured(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything, as it is printed."""
    truth = known_potential(0, DEPTH_KCAL_MOL)
    cold = sampled_chains(truth, TEMPERATURE_K, max(args.frames))
    contacts = variance(truth, cold, "contact")
    noise = np.full(residues.N_SPECIES, args.noise * contacts)
    result: dict[str, Any] = {
        "benchmark": "known_potential",
        "beads": [chain.topology.n_beads for chain in cold],
        "fault": args.fault,
        "size": args.size,
        "force_variance": {term.name: variance(truth, cold, term.name) for term in truth.model.terms},
        "noise_variance": args.noise * contacts,
    }
    told(json.dumps(result))
    run = partial(learned, args, cold)
    result["learning_curve"] = [
        run(folder / f"curve-{frames}-{seed}", [Noisy(TEMPERATURE_K, cold, noise)], frames, seed)
        for frames in args.frames
        for seed in args.seeds
    ]
    if not args.no_weights:
        frames = min(WEIGHTED_FRAMES, max(args.frames))
        loud = np.where(np.random.default_rng(1).permutation(residues.N_SPECIES) % 2 == 0, TIMES, 1.0) * noise
        hot = sampled_chains(truth, HOT_K, frames // 2)
        by_residue = [Noisy(TEMPERATURE_K, cold, loud)]
        by_temperature = [Noisy(TEMPERATURE_K, cold, noise), Noisy(HOT_K, hot, TIMES * noise)]
        for name, data in (("residue_weights", by_residue), ("temperature_weights", by_temperature)):
            result[name] = [
                compared(run, folder / f"{name}-{seed}", data, frames, seed, name, contacts)
                for seed in args.seeds
            ]
    return result


def compared(
    run: Callable[..., dict[str, Any]],
    folder: Path,
    data: list[Noisy],
    frames: int,
    seed: int,
    key: str,
    contacts: float,
) -> dict[str, Any]:
    """The same data with all weights 1 and with the rule inverse_variance of train.loss.`key`."""
    plain = run(folder / "plain", data, frames, seed)
    weighted = run(folder / "weighted", data, frames, seed, {key: "inverse_variance"})
    ratio = {kind: weighted[kind]["mse"] / plain[kind]["mse"] for kind in ("same_chains", "new_chains")}
    return {
        "mse_weighted_over_plain": ratio,
        "expected": expected(data, key, contacts),
        "plain": plain,
        "weighted": weighted,
    }


def expected(data: Sequence[Noisy], key: str, contacts: float) -> float:
    """What the rule's weights make of the error where noise alone limits it: see the top of this file.

    All beads have the same number of frames. contacts: mean square of their force, which no prior has.
    """
    group, noise = [], []
    for place, one in enumerate(data):
        for chain in one.chains[:TRAINING_CHAINS]:
            species = chain.topology.species
            group.append(species if key == "residue_weights" else np.full(len(species), place))
            noise.append(one.variance[species])
    g, v = np.concatenate(group), np.concatenate(noise)
    w = 1.0 / (np.bincount(g, v + contacts) / np.maximum(np.bincount(g), 1))[g]
    return float((w**2 @ v) / w.sum() ** 2 / (v.sum() / len(v) ** 2))


def learned(
    args: argparse.Namespace,
    tested: Sequence[Sampled],
    folder: Path,
    data: Sequence[Noisy],
    frames: int,
    seed: int,
    weights: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run the three commands on so many training frames, and compare the force field with the truth."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 1])
    files, held = [], []
    for one in data:
        each = frames // (TRAINING_CHAINS * len(data))
        for replica, part in enumerate(("training", "validation")):
            path = folder / f"{part}-{one.temperature_K:g}.npz"
            noise = write(path, one, part, each if part == "training" else None, rng, args.fault)
            facts = {"temperature_K": one.temperature_K, "replica": replica, "units": "A,kcal/mol/A"}
            files.append({"path": str(path), **facts})
            if part == "validation":
                held.append(noise)
    # as many updates for a quarter of the frames would be four times the epochs; half of that is enough
    epochs = round(args.epochs * (max(args.frames) / frames) ** 0.5)
    config = parse(
        {
            "data": {"coarse": [{"files": files}], "split": {"by": "replica", "validation_fraction": 0.5}},
            "cluster": {"kind": "inline"},
            "priors": {
                "temperature_K": TEMPERATURE_K, "iterate": {"rounds": 0}, "bootstrap": 2,
                "gate": {"steps": 1000, "replicas": 4, "domains": 1},
            },
            "model": {"name": "allegro", "size": args.size, "cutoff_A": CUTOFF_A, "n_bessel": N_BESSEL},
            "train": {
                "epochs": epochs, "seed": seed, "decoy_fraction": 0.0, "loss": weights or {},
                **json.loads(args.train),
            },
        },
        "known_potential",
    )  # fmt: skip
    # stdout is for the JSON alone
    with contextlib.redirect_stdout(sys.stderr):
        for stage in ("prepare", "priors", "train"):
            run_stage(stage, config, folder, Console(quiet=True), allow_ungated=True, force=True)
    metrics = read_json(folder / "train" / "metrics.json")["metrics"]
    field = forcefield.load(folder / "train" / "forcefield")
    found = {
        "frames": frames,
        "seed": seed,
        "epochs": epochs,
        "best_epoch": metrics["best_epoch"],
        "updates": metrics["steps"],
        "parameters": metrics["parameters"],
        "validation_mse": metrics["val_force_mse"]["value"],
        "noise_floor": float(np.mean(np.concatenate(held) ** 2)),
        "same_chains": errors(field, tested[:TRAINING_CHAINS]),
        "new_chains": errors(field, tested[TRAINING_CHAINS:]),
    }
    told(json.dumps(found))
    return found


def errors(field: forcefield.ForceField, chains: Sequence[Sampled]) -> dict[str, float]:
    """Of the learned mean force on test frames: nothing here has noise."""
    domains = []
    for k, chain in enumerate(chains):
        x, forces = chain.positions["test"], chain.forces["test"]
        arrays = {
            "positions": x,
            "forces": forces,
            "temperature_K": np.full(len(x), TEMPERATURE_K),
            "replica": np.zeros(len(x), int),
            "frame": np.arange(len(x)),
            "validation": np.ones(len(x), bool),
        }
        domains.append(in_memory(f"chain{k}", chain.topology, arrays))
    frames = frame_set(domains, True, field.model.cutoff_A)
    found = evaluate(field.model, field.params, frames, 400, Loader()).metrics
    return {
        "explained_variance": found["explained_variance"].value,
        "explained_variance_of_priors": found["explained_variance_prior"].value,
        "explained_variance_beyond_priors": found["explained_variance_over_prior"].value,
        "stderr": found["explained_variance_over_prior"].stderr,
        "mse": found["force_mse"].value,
        "mse_of_priors": found["force_mse_prior"].value,
    }


def sampled_chains(truth: KnownPotential, temperature_K: float, frames: int) -> list[Sampled]:
    """The training chains, with so many training frames in all, then the new ones, which need fewer."""
    rng = np.random.default_rng(7)
    each = -(-frames // (TRAINING_CHAINS * REPLICAS["training"]))
    found = []
    for k in range(TRAINING_CHAINS + NEW_CHAINS):
        species = rng.integers(0, residues.N_SPECIES, LENGTHS[k % len(LENGTHS)])
        topology = topology_from_species(species)
        x = sampled(truth, topology, temperature_K, max(each, 10), seed=k)
        forces = mean_forces(truth, topology, x)
        ends = np.cumsum(list(REPLICAS.values()))[:-1]
        parts = [
            {name: np.concatenate(part.swapaxes(0, 1)) for name, part in zip(REPLICAS, cut, strict=True)}
            for cut in (np.split(values, ends) for values in (x, forces))
        ]
        found.append(Sampled(topology, *parts))
    return found


def sampled(
    truth: KnownPotential, topology: Topology, temperature_K: float, frames: int, seed: int
) -> np.ndarray:
    """(replicas, frames, n, 3) by Langevin dynamics from extended chains."""
    replicas = sum(REPLICAS.values())
    system = pack([topology] * replicas)
    forces = Fast(*dense.dense(truth.model, truth.params, topology, np.float32))
    run = Settings(
        n_frames=frames + WARM_UP_FRAMES,
        stride=STEPS_PER_FRAME,
        chunk_frames=1,
        cutoff_A=truth.model.cutoff_A,
        headroom=4.0,
        check_every=STEPS_PER_FRAME,
    )
    chunks = list(
        rollout(
            truth.model,
            truth.params,
            system,
            np.tile(extended_chain(topology.n_beads), (replicas, 1)),
            np.full(replicas, units.thermal_energy(temperature_K), np.float32),
            jax.random.key(seed),
            Langevin(units.from_fs(TIMESTEP_FS), units.from_per_ps(FRICTION_PER_PS)),
            run,
            checks(system, np.full(len(system.bonds), 3.8), CRITERIA),
            forces,
        )
    )
    if (chunks[-1].status != Status.OK).any():
        raise RuntimeError(f"replicas of chain {seed} failed: status {chunks[-1].status.tolist()}")
    x = np.concatenate([chunk.positions for chunk in chunks])[WARM_UP_FRAMES:]
    return x.reshape(frames, replicas, topology.n_beads, 3).swapaxes(0, 1)


def mean_forces(
    truth: KnownPotential, topology: Topology, x: np.ndarray, names: tuple[str, ...] | None = None
) -> np.ndarray:
    """−∇U of (replicas, frames, n, 3), or of the terms of these names alone, kcal/mol/Å."""
    model = truth.model if names is None else truth.model.only(names)
    system = pack([topology] * len(x))
    pairs = neighbors.candidates(system)
    edges = neighbors.padded(pairs.senders, pairs.receivers, len(pairs.senders))
    rows = (x[:, k].reshape(-1, 3) for k in range(x.shape[1]))
    found = [np.asarray(_forces(model, truth.params, y, system, edges)) for y in rows]
    return np.stack(found).reshape(x.swapaxes(0, 1).shape).swapaxes(0, 1)


_forces = jax.jit(energy.forces, static_argnums=0)


def variance(truth: KnownPotential, chains: Sequence[Sampled], term: str) -> float:
    """Mean square of a component of the force of one term, on test frames, (kcal/mol/Å)²."""
    found = [mean_forces(truth, c.topology, c.positions["test"][:40, None], (term,)) for c in chains]
    return float(np.mean(np.concatenate([f.reshape(-1) for f in found]) ** 2))


def write(
    path: Path, data: Noisy, part: str, frames: int | None, rng: np.random.Generator, fault: str
) -> np.ndarray:
    """So many random frames (None: all) of the training chains, noise added, as npz that data.coarse reads.

    Gives the noise of all components. A fault is one of the training frames' forces.
    """
    chains = data.chains[:TRAINING_CHAINS]
    n_max = max(chain.topology.n_beads for chain in chains)
    rows: dict[str, list[np.ndarray]] = {"R": [], "F": [], "species": [], "mask": [], "protein_id": []}
    added = []
    for k, chain in enumerate(chains):
        # one order of each chain, so that more frames hold the fewer ones
        chosen = np.random.default_rng(k).permutation(len(chain.positions[part]))[:frames]
        x, forces = chain.positions[part][chosen], chain.forces[part][chosen]
        species = chain.topology.species
        count, n = x.shape[:2]
        noise = np.sqrt(data.variance[species])[:, None] * rng.standard_normal(x.shape)
        added.append(noise.reshape(-1))
        if part == "training" and fault == "shuffled":
            forces = forces[rng.permutation(count)]
        if part == "training" and fault == "sign":
            forces = -forces
        pad = ((0, 0), (0, n_max - n), (0, 0))
        rows["R"].append(np.pad(x, pad))
        rows["F"].append(np.pad((forces + noise).astype(np.float32), pad))
        rows["species"].append(np.tile(np.pad(species, (0, n_max - n)), (count, 1)))
        rows["mask"].append(np.tile((np.arange(n_max) < n).astype(np.int32), (count, 1)))
        rows["protein_id"].append(np.full(count, k))
    arrays: dict[str, Any] = {key: np.concatenate(value) for key, value in rows.items()}
    names = json.dumps({name: number for number, name in enumerate(residues.RESIDUES)})
    np.savez(path, aa_to_id=names, **arrays)
    return np.concatenate(added)


def figure(result: dict[str, Any]) -> Figure:
    """Errors against the number of training frames: of the mean force, and of noisy labels over the floor."""
    fig = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = fig.add_subplot()
    rows = sorted(result["learning_curve"], key=lambda row: row["frames"])
    frames = np.array(sorted({row["frames"] for row in rows}))

    def mean(value: Callable[[dict[str, Any]], float]) -> np.ndarray:
        return np.array([np.mean([value(row) for row in rows if row["frames"] == n]) for n in frames])

    left = {
        "beyond the priors": "explained_variance_beyond_priors",
        "whole mean force": "explained_variance",
    }
    for name, key in left.items():
        for chains, style in (("same_chains", "o-"), ("new_chains", "s--")):
            values = mean(lambda row, chains=chains, key=key: 1.0 - row[chains][key])
            colour = "C0" if key.endswith("priors") else "C1"
            axes.plot(frames, values, style, color=colour, label=f"{name}, {chains.replace('_', ' ')}")
    over = mean(lambda row: row["validation_mse"] / row["noise_floor"] - 1.0)
    axes.plot(frames, over, "^-", color="C2", label="validation error / noise floor - 1")
    first = mean(lambda row: 1.0 - row["same_chains"]["explained_variance_beyond_priors"])[0]
    axes.plot(frames, first * frames[0] / frames, color="gray", linestyle=":", label="1/frames")
    axes.axhline(0.02, color="gray", linewidth=0.8, label="0.98 explained")
    axes.set(xscale="log", yscale="log", xlabel="training frames", ylabel="1 - explained variance")
    axes.set_xticks(frames, [str(n) for n in frames])
    axes.set_xticks([], minor=True)
    fig.legend(fontsize="small", loc="outside lower center", ncols=2)
    return fig


def told(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
