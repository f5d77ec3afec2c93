"""The prepare stage on mini domains: metrics, checks, files, and refusals."""

import json
import shutil

import numpy as np
import pytest

from cgrefine.cli.console import Console
from cgrefine.cli.stages import run_stage
from cgrefine.config import parse
from cgrefine.data import jobs
from cgrefine.data.store import open_dataset
from cgrefine.errors import GateError, InputError
from tests.chains import random_chain
from tests.data.mini import Mini, edit
from tests.report.pages import valid_figures

pytestmark = pytest.mark.stages

SEQUENCES = {"1abcA00": Mini().residues, "2abcA00": ("ACE", "GLY", "ALA", "SER", "HSE", "NME")}


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for seed, (name, residues) in enumerate(SEQUENCES.items()):
        Mini(name=name, residues=residues, gap_before=(), seed=seed).write(folder / f"{name}.h5")
    return folder


def prepare(raw, out, force_map=None, strict=False, store=None, **data):
    config = {
        "data": {"raw": [] if raw is None else [str(raw)], **data},
        "force_map": force_map or {},
        "store": store or {},
        "cluster": {"kind": "inline"},
    }
    run_stage("prepare", parse(config, "test"), out, Console(quiet=True), strict=strict)
    return json.loads((out / "prepare" / "metrics.json").read_text())


def bytes_of(store):
    """Every file of a data set: dataset.json, and all below domains/."""
    files = [store / "dataset.json", *sorted(p for p in (store / "domains").rglob("*") if p.is_file())]
    return {str(p.relative_to(store)): p.read_bytes() for p in files}


IN_SAMPLE = {"kind": "optimal", "cross_fit": False}


def value(metric):
    return metric["value"] if isinstance(metric, dict) else metric


def test_split_by_replica(raw, tmp_path):
    summary = prepare(raw, tmp_path / "out", IN_SAMPLE, split={"by": "replica"})
    metrics = {k: value(v) for k, v in summary["metrics"].items()}
    assert metrics["domains"] == 2 and metrics["frames"] == 240 and metrics["beads"] == 9
    assert metrics["frames_validation"] == metrics["force_map_held_out_frames"] == 120
    assert metrics["force_map_ratio_in_sample"] < metrics["force_map_ratio"] < 1.0
    assert metrics["force_map_ratio"] == pytest.approx(
        metrics["force_mean_square_mapped"] / metrics["force_mean_square_basic"]
    )
    assert summary["checks"]["force_map_identity"]["passed"]
    assert summary["checks"]["force_map_constraints"]["passed"]
    dataset = open_dataset(tmp_path / "out" / "prepare")
    dataset.verify()
    assert {d.name: d.topology.n_beads for d in dataset.domains} == {"1abcA00": 5, "2abcA00": 4}
    assert all((d.validation == (d.replica == 1)).all() for d in dataset.domains)
    page = (tmp_path / "out" / "prepare" / "report.html").read_text()
    assert "2abcA00" in page
    forces, bonds = valid_figures(tmp_path / "out" / "prepare" / "report.html")
    assert forces["layout"]["yaxis"]["title"]["text"] == "mapped ⟨F²⟩, (kcal/mol/Å)²"
    assert sum(bonds["data"][0]["y"]) > 0


def test_split_by_domain_has_no_held_out_fit(raw, tmp_path):
    summary = prepare(raw, tmp_path / "out", IN_SAMPLE)
    metrics = summary["metrics"]
    assert metrics["force_map_held_out_frames"] == 0
    assert metrics["force_map_ratio"] == metrics["force_map_ratio_in_sample"]
    flags = [set(d.validation.tolist()) for d in open_dataset(tmp_path / "out" / "prepare").domains]
    assert sorted(flags, key=str) == [{False}, {True}]


def test_temperatures_and_stride(raw, tmp_path):
    summary = prepare(
        raw, tmp_path / "out", IN_SAMPLE, temperatures_K=[450], stride=3, split={"by": "replica"}
    )
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


def test_a_broken_file_is_left_out_and_listed(raw, tmp_path, capsys):
    third = raw / "3abcA00.h5"
    Mini(name="3abcA00").write(third)
    third.write_bytes(third.read_bytes()[:5000])
    summary = prepare(raw, tmp_path / "out", split={"by": "replica"})
    assert summary["metrics"]["domains"] == 2 and not summary["checks"]["domains_failed"]["passed"]
    (failed,) = json.loads((tmp_path / "out" / "prepare" / "failures.json").read_text())["failed"]
    assert "3abcA00.h5" in failed["name"] and "HDF5 file is truncated" in failed["reason"]
    assert "left out" in capsys.readouterr().out
    assert "truncated" in (tmp_path / "out" / "prepare" / "report.html").read_text()


def test_strict_refuses_a_data_set_with_failures(raw, tmp_path):
    (raw / "3abcA00.h5").write_bytes(b"no HDF5")
    with pytest.raises(GateError, match="domains_failed: found 1, limit 0"):
        prepare(raw, tmp_path / "out", strict=True, split={"by": "replica"})
    assert (tmp_path / "out" / "prepare" / "dataset.json").exists()


def test_nothing_that_can_be_prepared_is_an_input_error(raw, tmp_path):
    for name in SEQUENCES:
        (raw / f"{name}.h5").write_bytes((raw / f"{name}.h5").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"1abcA00\.h5: HDF5 file is truncated.*all failed"):
        prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out" / "prepare").exists()


@pytest.mark.parametrize("kind", ["windowed", "pooled", "optimal"])
def test_a_resumed_prepare_gives_the_same_bytes(raw, tmp_path, monkeypatch, kind):
    """The second protein's task is stopped as by a kill: what was finished is not made again."""
    options = {"kind": kind}
    prepare(raw, tmp_path / "whole", options, split={"by": "replica"})
    made, write = [], jobs.write_domain

    def stop_at_the_second(folder, name, *rest, **kinds):
        made.append(name)
        if len(made) == 2:
            raise KeyboardInterrupt
        return write(folder, name, *rest, **kinds)

    monkeypatch.setattr(jobs, "write_domain", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, tmp_path / "out", options, split={"by": "replica"})
    prepare(raw, tmp_path / "out", options, split={"by": "replica"})
    assert made == ["1abcA00", "2abcA00", "2abcA00"]
    assert bytes_of(tmp_path / "out" / "prepare") == bytes_of(tmp_path / "whole" / "prepare")


def test_a_damaged_piece_of_an_unfinished_prepare_is_made_again(raw, tmp_path):
    prepare(raw, tmp_path / "whole", split={"by": "replica"})
    whole, partial = tmp_path / "whole" / "prepare", tmp_path / "out" / ".prepare.partial"
    shutil.copytree(whole, partial)
    path = partial / "domains" / "1abcA00" / "forces.npy"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    shutil.copytree(whole / "domains" / "2abcA00", partial / "domains" / "stranger")
    prepare(raw, tmp_path / "out", split={"by": "replica"})
    assert bytes_of(tmp_path / "out" / "prepare") == bytes_of(whole)


def test_more_files_take_over_what_is_prepared(raw, tmp_path, monkeypatch):
    prepare(raw, tmp_path / "out", split={"by": "replica"})
    Mini(name="3abcA00", seed=9).write(raw / "3abcA00.h5")
    made, write = [], jobs.write_domain
    monkeypatch.setattr(
        jobs, "write_domain", lambda f, name, *r, **k: made.append(name) or write(f, name, *r, **k)
    )
    summary = prepare(raw, tmp_path / "out", split={"by": "replica"})
    assert made == ["3abcA00"] and summary["metrics"]["domains"] == 3
    open_dataset(tmp_path / "out" / "prepare").verify()
    made.clear()
    prepare(raw, tmp_path / "out", {"kind": "basic"}, split={"by": "replica"})
    assert sorted(made) == ["1abcA00", "2abcA00", "3abcA00"]


def test_pooled_map_is_saved_and_applied_to_others(raw, tmp_path):
    prepare(raw, tmp_path / "fit", {"kind": "pooled"}, split={"by": "replica"})
    saved = tmp_path / "fit" / "prepare" / "pooled_map.json"
    other = tmp_path / "other"
    other.mkdir()
    Mini(name="9abcA00", seed=4).write(other / "9abcA00.h5")
    options = {"kind": "pooled", "pooled_map": str(saved)}
    summary = prepare(other, tmp_path / "out", options, split={"by": "replica"})
    assert summary["checks"]["force_map_identity"]["passed"]
    assert summary["checks"]["force_map_constraints"]["passed"]
    assert summary["metrics"]["force_map_ratio"] < 1.0
    assert (tmp_path / "out" / "prepare" / "pooled_map.json").read_bytes() == saved.read_bytes()


def test_maps_are_compared_in_the_report(raw, tmp_path):
    prepare(raw, tmp_path / "out", split={"by": "replica"})
    reports = json.loads((tmp_path / "out" / "prepare" / "noise.json").read_text())
    assert {report["name"] for report in reports} == {"1abcA00", "2abcA00"}
    for report in reports:
        assert {"basic", "optimal", "windowed ±1"} <= set(report["maps"])
        assert all(row["identity"] < 1e-10 and row["constraint"] < 1e-10 for row in report["maps"].values())
    assert "Maps compared" in (tmp_path / "out" / "prepare" / "report.html").read_text()


def test_a_split_by_frame_says_what_it_is(raw, tmp_path):
    prepare(raw, tmp_path / "out", split={"by": "frame"})
    assert "not independent" in (tmp_path / "out" / "prepare" / "report.html").read_text()
    for domain in open_dataset(tmp_path / "out" / "prepare").domains:
        assert np.array_equal(domain.validation, domain.frame >= 24)


def test_split_by_topology_needs_and_uses_the_list(raw, tmp_path):
    listed = tmp_path / "cath.txt"
    listed.write_text("1abcA00 1.10.8.10\n2abcA00 3.40.50.720\n")
    split = {"by": "topology", "cath_list": str(listed)}
    prepare(raw, tmp_path / "out", split=split)
    flags = [set(d.validation.tolist()) for d in open_dataset(tmp_path / "out" / "prepare").domains]
    assert sorted(flags, key=str) == [{False}, {True}]
    listed.write_text("1abcA00 1.10.8.10\n")
    with pytest.raises(InputError, match="domain 2abcA00 is not among the 1 domains"):
        prepare(raw, tmp_path / "out", split=split)


def test_compact_numbers_are_close_to_the_full_ones(raw, tmp_path):
    full = prepare(raw, tmp_path / "full", split={"by": "replica"})
    compact = prepare(raw, tmp_path / "out", store={"forces": "float16"}, split={"by": "replica"})
    assert value(compact["metrics"]["bytes_per_residue_frame"]) < value(
        full["metrics"]["bytes_per_residue_frame"]
    )
    pairs = zip(*(open_dataset(tmp_path / f / "prepare").domains for f in ("full", "out")), strict=True)
    for one, other in pairs:
        assert np.allclose(one.forces[:], other.forces[:], rtol=2**-11, atol=1e-6)
        assert np.array_equal(one.positions[:], other.positions[:])


def test_workers_give_the_same_bytes_as_one_process(raw, tmp_path):
    prepare(raw, tmp_path / "inline", split={"by": "replica"})
    config = parse(
        {"data": {"raw": [str(raw)], "split": {"by": "replica"}}, "cluster": {"workers": 1}}, "test"
    )
    run_stage("prepare", config, tmp_path / "out", Console(quiet=True))
    assert bytes_of(tmp_path / "out" / "prepare") == bytes_of(tmp_path / "inline" / "prepare")


def test_validation_without_a_valid_frame_is_refused(raw, tmp_path):
    for name in SEQUENCES:
        for temperature in ("320", "450"):
            edit(raw / f"{name}.h5", f"{name}/{temperature}/1/coords", lambda x: x * 0)
    with pytest.raises(InputError, match="0 of 120 valid frames are for validation"):
        prepare(raw, tmp_path / "out", split={"by": "replica"})


@pytest.fixture
def beads(tmp_path):
    """A file of two proteins with one bead a residue, in the layout of data.coarse_npz."""
    rng, total, n = np.random.default_rng(3), 24, 8
    chain = np.stack([random_chain(n, seed) for seed in range(total)])
    which = np.repeat([0, 1], total // 2)
    mask = np.arange(n) < np.where(which == 0, n, 5)[:, None]
    np.savez(
        tmp_path / "beads.npz",
        R=chain * mask[..., None],
        F=rng.normal(0.0, 6.0, chain.shape) * mask[..., None],
        species=np.where(mask, (np.arange(n) + which[:, None]) % 4, -1),
        mask=mask.astype(np.float32),
        protein_id=which,
        aa_to_id=np.asarray('{"ALA": 0, "GLY": 1, "LEU": 2, "SER": 3}'),
    )
    file = {"path": str(tmp_path / "beads.npz"), "temperature_K": 310, "units": "A,kcal/mol/A"}
    return [{"files": [file], "names": ["b0", "b1"]}]


@pytest.mark.parametrize("kind", ["windowed", "pooled"])
def test_beads_alone_have_no_force_map(beads, tmp_path, kind):
    """No ratio and no condition of a map that was not made: the stage says what it did instead."""
    config = {"kind": kind}
    summary = prepare(None, tmp_path / "out", config, coarse=beads, split={"by": "frame"})
    metrics = summary["metrics"]
    assert metrics["frames"] == 24 and metrics["domains_coarse"] == 2
    assert not any(key.startswith("force_map") for key in (*metrics, *summary["checks"]))
    with np.load(tmp_path / "beads.npz") as arrays:
        expected = np.mean(arrays["F"][arrays["mask"] == 1] ** 2)
    assert value(metrics["force_mean_square_given"]) == pytest.approx(expected, rel=1e-6)
    dataset = open_dataset(tmp_path / "out" / "prepare")
    assert dataset.index["force_map"] is None
    assert [(d.name, d.sequence) for d in dataset.domains] == [("b0", "AGLSAGLS"), ("b1", "GLSAG")]
    assert all("identity_residual" not in e and "n_groups" not in e for e in dataset.index["domains"])
    page = (tmp_path / "out" / "prepare" / "report.html").read_text()
    assert "2 proteins were read with one bead a residue" in page and "as given" in page


def test_beads_beside_atoms(raw, beads, tmp_path):
    """Metrics of the map are those of the mapped proteins; the pooled map is fitted without the beads."""
    alone = prepare(raw, tmp_path / "alone", split={"by": "replica"})["metrics"]
    beads[0]["files"].append({**beads[0]["files"][0], "replica": 1})
    both = prepare(raw, tmp_path / "both", coarse=beads, split={"by": "replica"})["metrics"]
    assert both["domains"] == 4 and both["domains_coarse"] == 2 and both["frames"] == alone["frames"] + 48
    for key in ("force_map_ratio", "force_mean_square_basic", "force_map_held_out_frames"):
        assert both[key] == alone[key]
    pooled = []
    for name, coarse in (("with", beads), ("without", [])):
        prepare(raw, tmp_path / name, {"kind": "pooled"}, coarse=coarse, split={"by": "replica"})
        pooled.append((tmp_path / name / "prepare" / "pooled_map.json").read_bytes())
    assert pooled[0] == pooled[1]


def test_pickled_names_stop_the_stage_with_advice(beads, tmp_path):
    with np.load(tmp_path / "beads.npz") as arrays:
        content = {key: arrays[key] for key in arrays.files}
    content["aa_to_id"] = np.asarray({"ALA": 0}, dtype=object)
    np.savez(tmp_path / "beads.npz", **content)
    with pytest.raises(InputError, match="aa_to_id is a pickled Python dict, which is never read"):
        prepare(None, tmp_path / "out", coarse=beads)
