"""A run folder to be refined: freely jointed chains whose beads repel each other, and a model that overlaps.

Its repulsion is far too weak, so that its replicas fail by overlaps until the refinement has made it wider.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cgrefine import checkpoint, neighbors, system, units
from cgrefine.artifacts import write_json
from cgrefine.cli.console import Console
from cgrefine.cli.stages import run_stage
from cgrefine.config.load import load_config
from cgrefine.data.store import write_domain, write_index
from cgrefine.energy import SumOfTerms
from cgrefine.fm import forcefield
from cgrefine.fm.priors.terms import prior_terms
from tests.chains import random_topology
from tests.fm.prior_toy import FACTS, T_K, TRUE, _forces

RUNS, FRAMES = 4, 30
"""Of the reference: runs, and frames of each, every third of which is for validation."""

WEAK_A = 2.2
"""σ of the model's repulsion; that of the reference is 4 Å, and overlaps fail below 2.8 Å."""

SIM = {
    "temperature_K": T_K, "timestep_fs": 5.0, "friction_per_ps": 1.0, "replicas": 4, "duration_ps": 0.5,
    "save_every_ps": 0.25, "masses": "uniform", "mass_g_mol": 20.0,
    "criteria": {"size_limits": False, "second_neighbor_min_A": 0.01, "max_force_kcal_mol_A": 1e4},
}  # fmt: skip

REFINE = {
    "replicas": 8, "window_ps": 2.0, "save_every_ps": 0.1, "cycles": 1, "explore_windows": 4, "epochs": 5,
    "updates_per_window": 4, "enter_failed": 0.5, "learning_rate": 0.1, "reference_frames": 40,
    "terms": ["repulsion"], "warn": {"second_neighbor_min_A": 0.02},
    "forces": {"batch_beads": 100, "mean_frames": 40, "held_out_frames": 20},
    "evaluation": {"replicas": 8, "duration_ps": 4.0},
}  # fmt: skip

OBSERVABLES = {"separations": [3], "bootstrap_draws": 20, "floor_splits": 6, "surface_bins": 0}

CONFIG: dict[str, Any] = {
    "sim": SIM,
    "refine": REFINE,
    "observables": OBSERVABLES,
    "model": {"name": "none", "cutoff_A": 8.0},
    "train": {"epochs": 1, "batch_beads": 200},
    "lammps": {"steps": 50},
}


def chains(n: int, count: int, seed: int) -> np.ndarray:
    """Frames (count, n, 3) Å of freely jointed chains at T_K that repel as TRUE does, drawn independently.

    Bonds with a narrow distribution of lengths point anywhere; the repulsion, which is nowhere negative, is
    what a chain is refused by.
    """
    rng, kT = np.random.default_rng(seed), units.thermal_energy(T_K)
    sigma = float(TRUE["repulsion"]["sigma"][0, 0])
    i, j = np.triu_indices(n, 3)
    found: list[np.ndarray] = []
    while len(found) < count:
        steps = rng.normal(size=(2000, n - 1, 3))
        steps *= (rng.normal(3.82, 0.06, (2000, n - 1)) / np.linalg.norm(steps, axis=2))[..., None]
        x = np.concatenate([np.zeros((2000, 1, 3)), np.cumsum(steps, axis=1)], axis=1)
        u = ((sigma / np.linalg.norm(x[:, i] - x[:, j], axis=2)) ** 12).sum(axis=1)
        found += list(x[rng.random(2000) < np.exp(-u / kT)])
    return np.stack(found[:count]).astype(np.float32)


def write_domains(folder: Path, lengths: Sequence[int], held_out_K: float = T_K) -> None:
    """A data set of one chain of each length, chain0, chain1, ..., with the forces of TRUE.

    held_out_K: that the validation frames are said to be at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries, model, number = [], SumOfTerms(prior_terms(FACTS)), RUNS * FRAMES
    for k, n in enumerate(lengths):
        topology, x = random_topology(n, k), chains(n, number, k)
        every = np.asarray([(i, j) for i in range(n) for j in range(n) if i != j], np.int32)
        listed = neighbors.padded(every[:, 0], every[:, 1], len(every))
        own = {name: TRUE[name] for name in ("bond", "repulsion")}
        forces = np.asarray(_forces(model, own, x.astype(np.float64), system.pack([topology]), listed))
        held = np.arange(number) % 3 == 0
        arrays = {
            "positions": x,
            "forces": forces,
            "temperature_K": np.where(held, held_out_K, T_K),
            "replica": np.repeat(np.arange(RUNS), FRAMES),
            "frame": np.tile(np.arange(FRAMES), RUNS),
            "validation": held,
        }
        entries.append(write_domain(folder, f"chain{k}", topology, arrays, {}))
    write_index(folder, entries, {})


def run_folder(
    folder: Path,
    lengths: Sequence[int] = (10,),
    sigma_A: float = WEAK_A,
    bonds: float = 1.0,
    held_out_K: float = T_K,
    **changes: Any,
) -> Path:
    """A run folder with all that refine reads, and its configuration.

    sigma_A: of the model's repulsion; bonds: its force constants over those of TRUE; changes: of `refine`.
    """
    write_domains(folder / "prepare", lengths, held_out_K)
    springs = {"k": bonds * TRUE["bond"]["k"], "x0": TRUE["bond"]["x0"]}
    params = {"bond": springs, "repulsion": {"sigma": np.full((20, 20), sigma_A)}}
    forcefield.save(folder / "train" / "forcefield", forcefield.prior_only(FACTS, params, T_K))
    for name in ("prepare", "train"):
        write_json(folder / name / "provenance.json", {"fingerprint": name})
    write_config(folder, refine=changes)
    return folder


def write_config(folder: Path, **changes: dict[str, Any]) -> Path:
    """config.yaml, with changes to fields of its sections."""
    sections = {name: {**CONFIG.get(name, {}), **changes.get(name, {})} for name in (*CONFIG, *changes)}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def refine(folder: Path, quiet: bool = True, **options: Any) -> bool:
    """The stage in this process."""
    return run_stage("refine", load_config(folder / "config.yaml"), folder, Console(quiet), **options)


def result(folder: Path) -> dict[str, Any]:
    """Numbers of a finished refinement: bytes of its tables, and the parameters of all its force fields."""
    refined, found = folder / "refine", {}
    for name in ("log.csv", "final_metrics.json"):
        found[name] = (refined / name).read_bytes()
    for path in sorted(refined.rglob("params.npz")):
        leaves = checkpoint.flatten(checkpoint.load_params(path))
        found[str(path.relative_to(refined))] = {name: leaf.tobytes() for name, leaf in leaves.items()}
    return found
