"""Skipping, enforcing and the result table, on stage folders written here."""

import sys

import pytest

from cgrefine import artifacts
from cgrefine.cli import stages
from cgrefine.cli.console import Console
from cgrefine.config import parse
from cgrefine.errors import GateError, InputError

CONFIG = parse(
    {"data": {"raw": ["sample"]}, "model": {"name": "none", "cutoff_A": 8}, "train": {"epochs": 1}}, "x"
)


def finish(root, name, fingerprint, passed=True):
    with artifacts.stage_folder(root, name, CONFIG, fingerprint, {}) as stage:
        stage.record.metric("val_force_mse", 2.5, unit="(kcal/mol/Å)²", stderr=0.5)
        stage.record.check("below", passed, 3.0, 2.0)


@pytest.fixture
def root(tmp_path):
    for name in ("prepare", "priors"):
        finish(tmp_path, name, f"{name}-1")
    return tmp_path


def count_builds(monkeypatch, stage="train"):
    calls = []

    class Module:
        @staticmethod
        def build(stage, config, root, console):
            calls.append(stage.name)

    monkeypatch.setitem(sys.modules, f"cgrefine.cli.{stage}", Module)
    return calls


def test_a_complete_stage_is_skipped_until_config_or_input_changes(root, monkeypatch):
    calls = count_builds(monkeypatch)
    assert stages.run_stage("train", CONFIG, root, Console(quiet=True))
    assert not stages.run_stage("train", CONFIG, root, Console(quiet=True))
    changed = parse({**CONFIG.model_dump(), "train": {"epochs": 2}}, "x")
    assert stages.run_stage("train", changed, root, Console(quiet=True))
    assert not stages.run_stage("train", changed, root, Console(quiet=True))
    finish(root, "priors", "priors-2")
    assert stages.run_stage("train", changed, root, Console(quiet=True))
    assert stages.run_stage("train", changed, root, Console(quiet=True), force=True)
    assert calls == ["train"] * 4


def test_a_run_in_lammps_is_repeated_when_its_restart_file_changes(root, monkeypatch):
    for name in ("train", "export"):
        finish(root, name, f"{name}-1")
    calls, restart = count_builds(monkeypatch, "lammps"), root / "kept.restart"
    sections = {
        "lammps": {"restart": str(restart)},
        "sim": {"temperature_K": 300.0, "replicas": 1, "duration_ps": 1.0, "friction_per_ps": 1.0},
    }
    config = parse({**CONFIG.model_dump(), **sections}, "x")
    for content in ("one", "one", "two"):
        restart.write_text(content)
        stages.run_stage("lammps", config, root, Console(quiet=True))
    assert calls == ["lammps"] * 2


def test_sections_that_a_stage_does_not_read_do_not_rerun_it(root, monkeypatch):
    count_builds(monkeypatch)
    stages.run_stage("train", CONFIG, root, Console(quiet=True))
    other = parse({**CONFIG.model_dump(), "audit": {"max_unstable_fraction": 0.5}}, "x")
    assert not stages.run_stage("train", other, root, Console(quiet=True))


def test_strict_turns_a_failed_check_into_a_gate_error(root, monkeypatch):
    count_builds(monkeypatch)
    finish(root, "train", "t", passed=False)
    with pytest.raises(GateError, match="below: found 3, limit 2"):
        stages.enforce(root, "train")


def test_missing_section_is_named(root):
    with pytest.raises(InputError, match="simulate needs the section `sim`"):
        stages.run_stage("simulate", CONFIG, root, Console(quiet=True))


def test_result_rows_show_value_error_unit_and_failures(root):
    finish(root, "train", "t", passed=False)
    (row,) = stages.result_rows(root, ["train"])
    assert "val_force_mse 2.5 ± 0.5 (kcal/mol/Å)²" in row[1] and row[2] == "FAILED: below"


@pytest.fixture
def gated(tmp_path):
    """A run folder whose priors have a gate.json about their parameters, and a way to write it."""
    folder = tmp_path / "priors" / "forcefield"
    folder.mkdir(parents=True)
    (folder / "params.npz").write_bytes(b"parameters")

    def write(passed: bool, digest: str | None = None) -> None:
        check = {"passed": passed, "value": 0.4, "limit": 0.05, "sense": "at most", "meaning": "of bonds"}
        content = {
            "parameters": digest or artifacts.file_hash(folder / "params.npz"),
            "checks": {"kl_bond": check},
        }
        artifacts.write_json(tmp_path / "priors" / "gate.json", content)

    return tmp_path, write


def test_train_asks_for_the_gate_of_the_priors(gated):
    root, write = gated
    config = parse({"model": {"name": "allegro", "cutoff_A": 8.0}}, "test")
    with pytest.raises(GateError, match=r"gate\.json is not there.*--allow-ungated"):
        stages.require_gate(root, config)
    write(True)
    stages.require_gate(root, config)
    write(False)
    with pytest.raises(GateError, match=r"kl_bond: found 0\.4, allowed at most 0\.05"):
        stages.require_gate(root, config)
    write(True, digest="0" * 64)
    with pytest.raises(GateError, match="other parameters"):
        stages.require_gate(root, config)


def test_no_gate_where_no_network_stands_on_the_priors(tmp_path):
    for model in ({"name": "none", "cutoff_A": 8.0}, {"name": "allegro", "cutoff_A": 8.0, "priors": False}):
        stages.require_gate(tmp_path, parse({"model": model}, "test"))
