"""`observe` on a chain of which the model is a copy, a shifted copy, or a single replica."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from cgrefine.artifacts import stage_folder
from cgrefine.checkpoint import load_params
from cgrefine.cli import observe
from cgrefine.cli.console import Console
from cgrefine.cli.observe_findings import native_frame
from cgrefine.config import parse
from cgrefine.data.store import open_dataset, write_domain, write_index
from cgrefine.sim.trajectory import TrajectoryWriter, write_pdb
from tests.observables.sample import frames
from tests.report.pages import valid_figures

TOPOLOGY, X, _ = frames("gpturn10")
SIM = {
    "temperature_K": 320, "timestep_fs": 5, "friction_per_ps": 5.0, "replicas": 2, "duration_ps": 2.0,
    "save_every_ps": 0.1,
}  # fmt: skip
OBSERVABLES = {
    "per_residue": True, "tica_lag_frames": 2, "discard_fraction": 0.0, "bootstrap_draws": 20,
    "diffusion_fit_ps": [0.1, 0.3],
}  # fmt: skip
CONFIG = parse({"sim": SIM, "observables": OBSERVABLES}, "test")
RUNS = (X[:40], X[40:80])


def _write(root: Path, model: list[np.ndarray]) -> None:
    with stage_folder(root, "prepare", CONFIG, "0", {}) as stage:
        x = np.concatenate([RUNS[0][::-1], *RUNS])
        arrays = {key: x for key in ("positions", "forces")}
        arrays |= {"temperature_K": np.repeat([450.0, 320.0, 320.0], 40), "frame": np.tile(np.arange(40), 3)}
        arrays |= {"replica": np.repeat([0, 0, 1], 40), "validation": np.zeros(120, bool)}
        write_index(stage.path, [write_domain(stage.path, "turn", TOPOLOGY, arrays, {})], {})
    with stage_folder(root, "simulate", CONFIG, "0", {}) as stage:
        for name in ("trajectories", "topology"):
            (stage.path / name).mkdir()
        write_pdb(stage.path / "topology" / "turn.pdb", TOPOLOGY, X[0])
        paths = [stage.path / "trajectories" / f"turn_r{k:03d}.dcd" for k in range(len(model))]
        with TrajectoryWriter(paths) as writer:
            for k, part in enumerate(model):
                writer.write(k, part, 0.1 * np.arange(len(part)))


def _observe(root: Path, model: list[np.ndarray]) -> dict:
    _write(root, model)
    with stage_folder(root, "observe", CONFIG, "0", {}) as stage:
        observe.build(stage, CONFIG, root, Console(quiet=True))
    return json.loads((root / "observe" / "observables.json").read_text())["turn"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A run whose model is the reference itself, mirrored in its second replica."""
    root = tmp_path_factory.mktemp("run")
    return root, _observe(root, [RUNS[0], RUNS[1] * np.array([1.0, 1.0, -1.0])])


def test_a_mirrored_replica_is_seen_by_what_has_a_hand_alone(copied):
    _, found = copied
    numbers = found["observables"]
    for name in ("bond", "angle", "i,i+2", "i,i+4", "P(r)", "Rg", "Q"):
        # DCD holds float32: a value on an edge may change its bin
        assert numbers[name]["jensen_shannon"] < 1e-3, name
    for name in ("dihedral", "RMSD"):
        assert numbers[name]["jensen_shannon"] > 0.05, name
    assert set(numbers["bond"]["comparisons"]) == {"jensen_shannon", "kullback_leibler", "wasserstein", "mse"}
    floor = numbers["bond"]["comparisons"]["wasserstein"]
    # two runs can be halved in one way: a floor, and no spread of it
    assert floor["floor"] > 0 and floor["floor_spread"] is None and floor["stderr"] > 0
    assert numbers["contacts"]["jensen_shannon"] is None and numbers["contacts"]["distance"] < 0.01
    assert found["errors_from_blocks"] == []


def test_floor_of_two_runs_is_the_distance_between_them(copied):
    root, found = copied
    domain = open_dataset(root / "prepare").domain("turn")
    runs = observe.reference_groups(domain, 320.0)[1]
    lengths = [np.linalg.norm(np.diff(run, axis=1), axis=-1).ravel() for run in runs]
    edges = np.linspace(2.6, 5.0, 121)
    p, q = (np.histogram(r, edges)[0] / r.size for r in lengths)
    expected = 0.02 * np.abs(np.cumsum(p - q)).sum()
    floor = found["observables"]["bond"]["comparisons"]["wasserstein"]["floor"]
    assert floor == pytest.approx(expected, rel=0.02)


def test_native_is_the_first_frame_of_the_coldest_run(copied):
    root, _ = copied
    native = native_frame(open_dataset(root / "prepare").domain("turn"))
    assert native == pytest.approx(RUNS[0][0], abs=0.006)


def test_surfaces_residues_and_dynamics_are_written(copied):
    root, found = copied
    folder = root / "observe"
    assert set(found["free_energy_surfaces"]) == {"Rg-Q", "TICA"}
    both = found["free_energy_surfaces"]
    # Rg and Q do not see the mirror, and neither do distances
    assert all(s["rmse_kcal_mol"] < 0.1 and s["covered"] > 0.9 for s in both.values())
    arrays = load_params(folder / "turn.npz")
    mass = arrays["surface Rg-Q"]["reference_mass"]
    assert mass.shape == (32, 32) and mass.sum() == pytest.approx(1.0)
    with (folder / "residues_turn.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 10 and rows[0]["residue"].startswith("GLY")
    assert rows[-1]["JS bond, nats"] == "" and float(rows[3]["JS dihedral, nats"]) > 0.05
    assert float(rows[4]["RMSF model, Å"]) > float(rows[4]["RMSF reference, Å"])
    for name in ("turn", "turn_residues", "turn_free_energy"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5000
    page = (folder / "report.html").read_text()
    drawn = valid_figures(folder / "report.html")
    floors = [t for f in drawn for t in f["data"] if t.get("name") == "noise floor of the reference"]
    assert len(floors) == 14 and len(drawn) == 16 + 6 + 6
    scales = [t["colorbar"]["title"]["text"] for f in drawn for t in f["data"] if t["type"] == "heatmap"]
    assert {"probability", "F, kcal/mol", "ΔF, kcal/mol", "density, 1/°"} <= set(scales)
    assert "turn, by residue" in page and "turn, free energy" in page and "D = " in page
    d = found["model_diffusion"]
    assert d["fit_ps"] == pytest.approx([0.1, 0.3]) and d["groups"] == 2 and not d["blocks_of_one_run"]
    assert found["autocorrelation"]["Rg"]["reference"]["time"] >= 0.5
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert {"js_dihedral", "w1_dihedral", "contact_map_mae", "mae_rmsf", "js_q"} <= set(metrics)
    assert not any("each_residue" in name for name in metrics)


def test_a_single_replica_is_cut_into_blocks_and_that_is_said(tmp_path):
    found = _observe(tmp_path, [RUNS[1]])
    assert found["errors_from_blocks"] == ["model"] and found["model_diffusion"]["blocks_of_one_run"]
    assert found["observables"]["bond"]["comparisons"]["wasserstein"]["stderr"] > 0
    assert "5 blocks of the only run" in (tmp_path / "observe" / "report.html").read_text()
