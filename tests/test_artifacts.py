"""Stage folders are whole or absent, keep one predecessor, and hold what other tools read."""

import numpy as np
import pytest

from cgrefine import artifacts, checkpoint, versions
from cgrefine.config import Config
from cgrefine.errors import InputError


def write(root, fingerprint="f", fail=False):
    with artifacts.stage_folder(root, "demo", Config(), fingerprint, {"x": "h"}) as stage:
        (stage.path / "a.txt").write_text(fingerprint)
        stage.record.metric("energy", np.float32(1.5), unit="kcal/mol", stderr=0.25)
        stage.record.metric("frames", 3)
        stage.record.check("ok", np.bool_(True), 1, 2)
        if fail:
            raise OSError("disk full")


def test_folder_holds_the_contract(tmp_path):
    write(tmp_path)
    metrics = artifacts.read_json(tmp_path / "demo" / "metrics.json")
    assert metrics["stage"] == "demo" and metrics["seconds"] >= 0
    assert metrics["metrics"] == {
        "energy": {"value": 1.5, "unit": "kcal/mol", "stderr": 0.25},
        "frames": 3,
    }
    assert metrics["checks"]["ok"] == {"passed": True, "value": 1, "limit": 2}
    assert (tmp_path / "demo" / "config.yaml").exists()
    assert artifacts.complete(tmp_path, "demo") == "f"


def test_a_failed_stage_leaves_the_old_folder_whole(tmp_path):
    write(tmp_path, "first")
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, "second", fail=True)
    assert artifacts.complete(tmp_path, "demo") == "first"


def test_the_replaced_folder_is_kept_once(tmp_path):
    for name in ("one", "two", "three"):
        write(tmp_path, name)
    assert (tmp_path / "demo" / "a.txt").read_text() == "three"
    assert (tmp_path / "demo.previous" / "a.txt").read_text() == "two"


@pytest.mark.parametrize("resume", [True, False])
def test_an_unfinished_folder_is_taken_up_only_when_asked(tmp_path, resume):
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, "f", fail=True)
    with artifacts.stage_folder(tmp_path, "demo", Config(), "f", {}, resume=resume) as stage:
        assert (stage.path / "a.txt").exists() == resume


def test_two_writers_of_one_folder_are_refused(tmp_path):
    with (
        artifacts.stage_folder(tmp_path, "demo", Config(), "f", {}),
        pytest.raises(InputError, match=r"demo: another cgrefine process is writing"),
    ):
        write(tmp_path, "g")
    write(tmp_path, "g")
    assert artifacts.complete(tmp_path, "demo") == "g"


def test_large_files_are_known_by_size_time_and_ends(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(70 << 20))
    before = artifacts.file_hash(path)
    assert artifacts.file_hash(path) == before
    path.write_bytes(bytes((70 << 20) - 1) + b"1")
    assert artifacts.file_hash(path) != before


def test_missing_stage_names_the_command(tmp_path):
    with pytest.raises(InputError, match="run `cgrefine prepare` first"):
        artifacts.require(tmp_path, "prepare", "train")


def test_fingerprint_sees_config_and_inputs():
    base = artifacts.fingerprint_of("a", {"x": 1}, {"y": "2"})
    assert base == artifacts.fingerprint_of("a", {"x": 1}, {"y": "2"})
    assert base != artifacts.fingerprint_of("a", {"x": 2}, {"y": "2"})
    assert base != artifacts.fingerprint_of("a", {"x": 1}, {"y": "3"})


def test_params_round_trip_and_refuse_objects(tmp_path):
    tree = {"network": {"layer/~/linear": {"w": np.eye(2), "b": np.zeros(2)}}, "bond": {"k": np.ones(2)}}
    checkpoint.save_params(tmp_path / "p.npz", tree)
    back = checkpoint.load_params(tmp_path / "p.npz")
    assert back["network"]["layer/~/linear"]["w"].tolist() == [[1, 0], [0, 1]]
    np.savez(tmp_path / "evil.npz", a=np.array([{"run": "me"}], dtype=object))
    with pytest.raises(InputError, match="Python objects"):
        checkpoint.load_params(tmp_path / "evil.npz")


@pytest.mark.parametrize("version", ["0.10.2", "0.11.0", "0.11.1", "0.4.37"])
def test_miscompiling_jaxlib_is_refused(version):
    with pytest.raises(InputError, match=version):
        versions.refuse_miscompiling(version)


def test_the_installed_jaxlib_is_accepted():
    versions.refuse_miscompiling()
