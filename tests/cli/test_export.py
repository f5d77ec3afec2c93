"""The export and lammps stages on a small force field of the real kind: prior terms and Allegro."""

import shutil
from typing import Any

import jax
import numpy as np
import pytest

from cgrefine import checkpoint
from cgrefine.artifacts import Stage, read_json, stage_folder
from cgrefine.cli import export, export_check, lammps
from cgrefine.cli.console import Console
from cgrefine.config.running import Export as ExportSection
from cgrefine.config.running import Lammps, Sim
from cgrefine.config.schema import Config
from cgrefine.config.training import Model
from cgrefine.data.store import write_domain, write_index
from cgrefine.errors import GateError, InputError, SimulationStopped
from cgrefine.export.sealed import digest_of, seal, write_zip
from cgrefine.fm import forcefield
from cgrefine.fm.models.registry import network_term
from cgrefine.residues import RESIDUES
from tests.export import toy
from tests.fm import prior_facts

pytestmark = pytest.mark.lammps

N_BEADS = 16
SCALE = 1.6


def make_config(**sections) -> Config:
    sim = Sim(temperature_K=320, timestep_fs=2, friction_per_ps=1.0, replicas=1, duration_ps=1)
    return Config(sim=sim, export=ExportSection(reference_frames=2, lammps_jax="cuda"), **sections)


def made(root, name, config) -> Stage:
    """An empty finished stage folder to write into."""
    with stage_folder(root, name, config, "fingerprint", {}) as stage:
        return Stage(name, root / name, stage.record)


def small_force_field() -> forcefield.ForceField:
    facts = prior_facts.FULL
    priors = prior_facts.all_params(facts)
    priors["bond"]["x0"] = np.array([3.82, 3.85, 2.95])
    for name in ("repulsion", "excluded_volume"):
        priors[name] = {"sigma": np.full((20, 20), 3.9)}
    section = Model(name="allegro", cutoff_A=10.0, channels=4, hidden=8, layers=1, l_max=1, n_bessel=6)
    network = {**section.model_dump(), "avg_neighbors": 8.0}
    params = jax.tree.map(np.asarray, network_term(network).init(jax.random.key(0)))
    # An untrained network is nearly zero: scaled up so that its share of the force can be seen.
    params = jax.tree.map(lambda leaf: SCALE * leaf, params)
    return forcefield.with_network(forcefield.prior_only(facts, priors, 320.0), network, params)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run folder that has been prepared, trained and exported, and what export said."""
    root, config = tmp_path_factory.mktemp("run"), make_config()
    prepared = made(root, "prepare", config)
    positions = toy.frames(N_BEADS, count=3).astype(np.float32)
    arrays = {"forces": np.zeros_like(positions)}
    arrays |= {"positions": positions, "temperature_K": np.full(3, 320.0, np.float32)}
    arrays |= {"replica": np.zeros(3, np.int32), "frame": np.arange(3, dtype=np.int32)}
    arrays["validation"] = np.zeros(3, bool)
    entry = write_domain(prepared.path, "toy", toy.topology(N_BEADS), arrays, {})
    write_index(prepared.path, [entry], {})
    forcefield.save(made(root, "train", config).path / "forcefield", small_force_field())
    stage = made(root, "export", config)
    export.build(stage, config, root, Console(quiet=True))
    return stage


@pytest.fixture(scope="module")
def root(exported):
    return exported.path.parent


def test_export_writes_a_bundle_that_passed_its_test(exported):
    stage = exported
    metrics, checks = stage.record.metrics, stage.record.checks
    assert metrics["reference_beads"] == N_BEADS
    assert (stage.path / "digest.txt").read_text().strip() == digest_of(stage.path / "bundle")
    assert 0 < metrics["selftest_max_force_error_kcal_mol_A"]["value"] < 1e-4
    assert checks["selftest_max_force_error_kcal_mol_A"]["passed"]
    assert (stage.path / "bundle" / "network.mlir").exists()
    assert (stage.path / "deploy" / "network.ptb").exists()
    contract = read_json(stage.path / "network.lammps-jax.json")["contract"]
    assert (contract["max_atoms"], contract["cutoff"]) == (2 * N_BEADS, 10.0)
    assert "newton off" in (stage.path / "report.html").read_text()
    assert "Self-test" in (stage.path / "report.html").read_text()


def test_lammps_agrees_with_jax_in_one_and_two_processes(root):
    """Priors from tables and Allegro in float32: within 1e-3 kcal/mol/Å and 1e-4 of the rms force."""
    config = make_config(lammps=Lammps(steps=300, ranks=2))
    stage = made(root, "lammps", config)
    lammps.build(stage, config, root, Console(quiet=True))
    metrics, checks = stage.record.metrics, stage.record.checks
    assert metrics["max_force_error_kcal_mol_A"]["value"] < 1e-3
    assert metrics["relative_force_error"] < 1e-4
    assert metrics["distinct_orders"] > 1
    assert metrics["ranks"] == 2
    assert all(check["passed"] for check in checks.values())
    assert (stage.path / "report.html").exists()
    assert checkpoint.load_params(stage.path / "run_2.npz")["forces"].shape == (2, N_BEADS, 3)


def test_ensembles_replicas_and_restarts(root):
    """Two replicas after minimisation, then NVT in a periodic box that goes on from where the first ended."""
    quick: dict[str, Any] = {"steps": 100, "save_every": 50}
    config = make_config(lammps=Lammps(**quick, minimize=50, replicas=2, restart_every=50))
    stage = made(root, "lammps", config)
    lammps.build(stage, config, root, Console(quiet=True))
    assert all(check["passed"] for check in stage.record.checks.values())
    series = [np.loadtxt(path) for path in sorted(stage.path.glob("run_1*series*"))]
    assert len(series) == 2 and not np.array_equal(series[0], series[1])
    assert series[0][:, 0].tolist() == [0, 50, 100]
    trajectory = (stage.path / "run_1.lammpstrj").read_text()
    assert trajectory.count("ITEM: TIMESTEP") == 3
    first = checkpoint.load_params(stage.path / "run_1.npz")
    kept = root / "kept.restart"
    shutil.copy(stage.path / "run_1.restart", kept)
    config = make_config(lammps=Lammps(**quick, ensemble="nvt", boundary="periodic", restart=kept))
    stage = made(root, "lammps", config)
    lammps.build(stage, config, root, Console(quiet=True))
    assert all(check["passed"] for check in stage.record.checks.values())
    second = checkpoint.load_params(stage.path / "run_1.npz")
    assert second["steps"].tolist() == [100, 200]
    assert np.allclose(second["positions"][0], first["positions"][1], atol=1e-9)
    assert "Nosé-Hoover" in (stage.path / "report.html").read_text()


def test_a_restart_file_that_is_not_there_is_named(root):
    config = make_config(lammps=Lammps(restart=root / "absent"))
    with pytest.raises(InputError, match=r"lammps\.restart: there is no file .*absent"):
        lammps.build(made(root, "wrong", config), config, root, Console(quiet=True))


def test_a_run_that_lammps_stops_says_why_and_where(root):
    """Steps so long that a bond leaves its table."""
    config = make_config(lammps=Lammps(steps=2000, timestep_fs=60.0))
    stage = made(root, "wrong", config)
    with pytest.raises(SimulationStopped, match=r"LAMMPS stopped.*log: .*run_1\.log"):
        lammps.build(stage, config, root, Console(quiet=True))
    assert (stage.path / "run_1.log").exists()


def pdb_of(path, topology, x):
    """Cα alone, one chain after another, TER between them."""
    lines, chain = [], 0
    for i, (kind, (a, b, c)) in enumerate(zip(topology.species, x, strict=True)):
        if i and topology.sequence[i] - topology.sequence[i - 1] != 1:
            lines, chain = [*lines, "TER"], chain + 1
        place = f"{RESIDUES[kind]} {'AB'[chain]}{i + 1:4d}    {a:8.3f}{b:8.3f}{c:8.3f}  1.00  0.00"
        lines.append(f"ATOM  {i + 1:5d}  CA  {place}           C")
    path.write_text("\n".join(lines) + "\n")


def test_a_bundle_runs_another_protein_in_lammps(root, tmp_path):
    """24 beads in two chains with a bundle made on 16, from its zip, with a temperature of its own."""
    path = tmp_path / "model.zip"
    write_zip(root / "export" / "bundle", path)
    pdb_of(tmp_path / "other.pdb", toy.topology(24), toy.frames(24)[1])
    digest = digest_of(root / "export" / "bundle")
    given = (path, tmp_path / "other.pdb", ["lammps.steps=200"], tmp_path / "out", Console(quiet=True))
    lammps.run_bundle(*given, digest)
    summary = read_json(tmp_path / "out" / "lammps" / "metrics.json")
    assert summary["metrics"]["n_beads"] == 24
    assert summary["metrics"]["relative_force_error"] < 1e-4
    assert all(check["passed"] for check in summary["checks"].values())
    data = (tmp_path / "out" / "lammps" / "files" / "beads.data").read_text()
    assert all(f"\n{count}\n" in data for count in ("24 atoms", "20 angles", "18 dihedrals"))
    with pytest.raises(InputError, match="is demanded"):
        lammps.run_bundle(*given, "ff" * 32, force=True)


def test_everything_that_can_be_verified_is(root, capsys):
    export_check.check_stage(root, Console(quiet=True))
    told = capsys.readouterr().out
    assert "FAILED" not in told and "not done" not in told
    assert told.count("passed") == 14


def test_a_bundle_that_fails_is_put_aside(root, tmp_path, monkeypatch):
    """A LAMMPS file that was changed, hash and all: only the forces tell."""
    run = tmp_path / "run"
    shutil.copytree(root / "export", run / "export")
    data = run / "export" / "bundle" / "lammps" / "model.in"
    text = data.read_text()
    assert "special_bonds lj 0.0" in text
    data.write_text(text.replace("special_bonds lj 0.0", "special_bonds lj 1.0"))
    seal(run / "export" / "bundle")
    monkeypatch.setattr(export_check, "IN_OTHER_PROCESSES", export_check.IN_OTHER_PROCESSES[1:2])
    with pytest.raises(GateError, match="failed: LAMMPS, step 0: all"):
        export_check.check_stage(run, Console(quiet=True))
    assert not (run / "export").exists() and (run / "export.failed" / "bundle").is_dir()


def test_an_unknown_domain_is_named(root):
    config = make_config().model_copy(update={"export": ExportSection(domain="1abc")})
    with pytest.raises(InputError, match=r"1abc.*choose from toy"):
        export.build(made(root, "wrong", config), config, root, Console(quiet=True))


def test_lammps_needs_a_temperature(root):
    config = make_config().model_copy(update={"sim": None})
    with pytest.raises(InputError, match="temperature_K"):
        lammps.build(made(root, "cold", config), config, root, Console(quiet=True))
