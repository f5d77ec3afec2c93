"""The prepare stage on mini domains: metrics, checks, files, and refusals."""

import json

import pytest

from cgrefine.cli.console import Console
from cgrefine.cli.stages import run_stage
from cgrefine.config import parse
from cgrefine.data.store import open_dataset
from cgrefine.errors import InputError
from tests.data.mini import Mini, edit

SEQUENCES = {"1abcA00": Mini().residues, "2abcA00": ("ACE", "GLY", "ALA", "SER", "HSE", "NME")}


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for seed, (name, residues) in enumerate(SEQUENCES.items()):
        Mini(name=name, residues=residues, gap_before=(), seed=seed).write(folder / f"{name}.h5")
    return folder


def prepare(raw, out, **data):
    config = parse({"data": {"raw": [str(raw)], **data}}, "test")
    run_stage("prepare", config, out, Console(quiet=True))
    return json.loads((out / "prepare" / "metrics.json").read_text())


def value(metric):
    return metric["value"] if isinstance(metric, dict) else metric


def test_split_by_replica(raw, tmp_path):
    summary = prepare(raw, tmp_path / "out", split={"by": "replica"})
    metrics = {k: value(v) for k, v in summary["metrics"].items()}
    assert metrics["domains"] == 2 and metrics["frames"] == 240 and metrics["beads"] == 9
    assert metrics["frames_validation"] == metrics["force_map_held_out_frames"] == 120
    assert metrics["force_map_ratio_in_sample"] < metrics["force_map_ratio"] < 1.0
    assert metrics["force_map_ratio"] == pytest.approx(
        metrics["force_mean_square_optimal"] / metrics["force_mean_square_basic"]
    )
    assert summary["checks"]["force_map_identity"]["passed"]
    assert summary["checks"]["force_map_constraints"]["passed"]
    dataset = open_dataset(tmp_path / "out" / "prepare")
    dataset.verify()
    assert {d.name: d.topology.n_beads for d in dataset.domains} == {"1abcA00": 5, "2abcA00": 4}
    assert all((d.validation == (d.replica == 1)).all() for d in dataset.domains)
    page = (tmp_path / "out" / "prepare" / "report.html").read_text()
    assert "2abcA00" in page and "data:image/png" in page


def test_split_by_domain_has_no_held_out_fit(raw, tmp_path):
    summary = prepare(raw, tmp_path / "out")
    metrics = summary["metrics"]
    assert metrics["force_map_held_out_frames"] == 0
    assert metrics["force_map_ratio"] == metrics["force_map_ratio_in_sample"]
    flags = [set(d.validation.tolist()) for d in open_dataset(tmp_path / "out" / "prepare").domains]
    assert sorted(flags, key=str) == [{False}, {True}]


def test_temperatures_and_stride(raw, tmp_path):
    summary = prepare(raw, tmp_path / "out", temperatures_K=[450], stride=3, split={"by": "replica"})
    assert summary["metrics"]["frames"] == 2 * 2 * 10
    assert {t for d in open_dataset(tmp_path / "out" / "prepare").domains for t in d.temperature_K} == {450.0}


def test_bad_frames_are_counted_in_the_metrics(raw, tmp_path):
    edit(raw / "1abcA00.h5", "1abcA00/320/0/coords", lambda x: x.__setitem__(slice(25, None), 2.1e7) or x)
    summary = prepare(raw, tmp_path / "out", split={"by": "replica"})
    assert summary["metrics"]["frames_left_out"] == 5 and summary["metrics"]["frames"] == 235


def test_a_domain_given_twice_is_refused(raw, tmp_path):
    (raw / "copy.h5").write_bytes((raw / "1abcA00.h5").read_bytes())
    with pytest.raises(InputError, match=r"domain 1abcA00 is in .* and in"):
        prepare(raw, tmp_path / "out")


def test_a_broken_file_is_fatal_and_leaves_no_folder(raw, tmp_path):
    (raw / "2abcA00.h5").write_bytes((raw / "2abcA00.h5").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"2abcA00\.h5: HDF5 file is truncated"):
        prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out" / "prepare").exists()


def test_validation_without_a_valid_frame_is_refused(raw, tmp_path):
    for name in SEQUENCES:
        for temperature in ("320", "450"):
            edit(raw / f"{name}.h5", f"{name}/{temperature}/1/coords", lambda x: x * 0)
    with pytest.raises(InputError, match="0 of 120 valid frames are for validation"):
        prepare(raw, tmp_path / "out", split={"by": "replica"})
