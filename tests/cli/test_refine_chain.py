"""The chain with and without a section `refine`: which stages run, what export and lammps take, and when."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cgrefine import artifacts, checkpoint
from cgrefine.artifacts import write_json
from cgrefine.cli import stages
from cgrefine.cli.console import Console
from cgrefine.cli.stages import CHAIN, run_chain, run_stage
from cgrefine.config import parse
from cgrefine.config.load import load_config
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.interop.opened import opened

QUIET = Console(quiet=True)
SIM = {"temperature_K": 300, "timestep_fs": 4, "friction_per_ps": 1, "replicas": 2, "duration_ps": 2}
SECTIONS = {
    "data": {"raw": ["sample"]},
    "model": {"name": "none", "cutoff_A": 8},
    "train": {"epochs": 1},
    "sim": SIM,
}
PLAIN = [spec.name for spec in CHAIN if spec.name not in ("refine", "audit_refined")]


@pytest.fixture
def built(monkeypatch):
    """Names of the stages that were built, in order, by modules that build nothing."""
    calls = []

    class Module:
        @staticmethod
        def build(stage, config, root, console):
            calls.append(stage.name)

    for spec in CHAIN:
        monkeypatch.setitem(sys.modules, f"cgrefine.cli.{spec.name}", Module)
    return calls


def config(**refine):
    return parse({**SECTIONS, "refine": refine}, "test")


def test_without_the_section_the_chain_is_what_it_was(tmp_path, built):
    run_chain(parse(SECTIONS, "test"), tmp_path, QUIET)
    assert built == PLAIN
    inputs = artifacts.read_json(tmp_path / "export" / "provenance.json")["inputs"]
    assert set(inputs) == {"prepare", "train"}


def test_with_it_the_refined_model_is_audited_and_exported(tmp_path, built):
    run_chain(config(), tmp_path, QUIET)
    assert built == [spec.name for spec in CHAIN]
    assert built.index("audit") < built.index("refine") < built.index("audit_refined") < built.index("export")
    for name in ("export", "lammps"):
        inputs = artifacts.read_json(tmp_path / name / "provenance.json")["inputs"]
        assert "refine" in inputs and "train" not in inputs
    built.clear()
    run_chain(config(), tmp_path, QUIET)
    assert built == []


def test_what_rests_on_the_refinement_is_done_again_when_it_changes(tmp_path, built):
    run_chain(config(), tmp_path, QUIET)
    built.clear()
    run_chain(config(epochs=7), tmp_path, QUIET)
    assert built == ["refine", "audit_refined", "export", "lammps"]
    built.clear()
    run_chain(parse(SECTIONS, "test"), tmp_path, QUIET)
    assert built == ["export", "lammps"]


def test_a_changed_file_of_a_target_is_noticed(tmp_path, built):
    path = tmp_path / "target.json"
    path.write_text("{}")
    cfg = config(targets=[{"observable": "P(r)", "file": str(path)}])
    run_chain(cfg, tmp_path, QUIET)
    built.clear()
    path.write_text("[]")
    run_chain(cfg, tmp_path, QUIET)
    assert built == ["refine", "audit_refined", "export", "lammps"]


def test_export_asks_for_the_refinement(tmp_path, built):
    for name in ("prepare", "priors", "train"):
        run_stage(name, config(), tmp_path, QUIET)
    with pytest.raises(InputError, match=r"export needs the folder .*refine, which is not there"):
        run_stage("export", config(), tmp_path, QUIET)
    stages.run_stage("export", parse(SECTIONS, "test"), tmp_path, QUIET)
    assert built[-1] == "export"


def stage(name: str, folder: Path) -> bool:
    return run_stage(name, load_config(folder / "config.yaml"), folder, QUIET)


@pytest.mark.stages
def test_the_bundle_is_of_the_refined_model(refined):
    assert stage("export", refined) and not stage("export", refined)
    bundle = opened(refined / "export" / "bundle")
    end, begin = (forcefield.load(refined / name / "forcefield").params for name in ("refine", "train"))
    found = bundle.params["repulsion"]["sigma"]
    assert np.array_equal(found, end["repulsion"]["sigma"])
    assert not np.array_equal(found, begin["repulsion"]["sigma"])


@pytest.mark.lammps
def test_lammps_is_held_to_the_refined_model(refined):
    """Its forces are those of refine/, and not those of another model there."""
    stage("export", refined)
    assert stage("lammps", refined)
    checks = artifacts.read_json(refined / "lammps" / "metrics.json")["checks"]
    assert all(check["passed"] for check in checks.values())
    path = refined / "refine" / "forcefield" / "params.npz"
    whole, params = path.read_bytes(), checkpoint.load_params(path)
    params["repulsion"]["sigma"] = params["repulsion"]["sigma"] + 0.5
    try:
        checkpoint.save_params(path, params)
        provenance = refined / "export" / "provenance.json"
        write_json(provenance, {**artifacts.read_json(provenance), "fingerprint": "again"})
        assert stage("lammps", refined)
    finally:
        path.write_bytes(whole)
    checks = artifacts.read_json(refined / "lammps" / "metrics.json")["checks"]
    assert not checks["max_force_error_kcal_mol_A"]["passed"]
