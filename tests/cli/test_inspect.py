"""`inspect` on raw files and on a data set: the numbers a person looks for are on the page."""

import numpy as np
import pytest

from cgrefine import artifacts
from cgrefine.cli.console import Console
from cgrefine.cli.inspect import Options, inspect, inspect_data
from cgrefine.cli.stages import run_stage
from cgrefine.config import parse
from cgrefine.data.mdcath import read_domain
from cgrefine.data.source import frame_blocks, valid_frames
from cgrefine.errors import InputError
from cgrefine.residues import RESIDUES, species_of
from tests.data.mini import Mini, edit
from tests.report.pages import valid_figures


@pytest.fixture
def path(tmp_path):
    path = Mini().write(tmp_path / "mini.h5")
    return edit(path, "1abcA00/320/0/coords", lambda x: x.__setitem__(slice(26, None), 0.0) or x)


def cells(text):
    return [word for word in text.replace("│", " ").split() if word[0] not in "┏┡├└"]


def test_raw_file(path, capsys):
    inspect([str(path)], Options(), Console(quiet=True))
    shown = cells(capsys.readouterr().out)
    row = shown[shown.index("1abcA00") :]
    assert row[:9] == ["1abcA00", "5", "49", "47", "4", "120", "4", "1", "0"]
    text = " ".join(shown)
    assert "AHG/SV;" in shown and "bonds from the file" in text and "bad frames 320/0: 26-29" in text
    assert "320 60 4" in text and "450 60 0" in text and "580 residue-frames" in text
    expected = size_of_forces(path, "HIS")
    row = shown[shown.index("HIS") :]
    assert row[1] == str(expected[0])
    assert [float(word) for word in row[2:5]] == pytest.approx(expected[1:], rel=1e-3)


def size_of_forces(path, resname):
    """Number of vectors, mean and largest |F|, and RMS per component of all atoms of a residue type."""
    mini = Mini()
    atoms = [i for i, r in enumerate(mini.residue) if species_name(mini.residues[r]) == resname]
    domain = read_domain(path, "1abcA00")
    parts = [b for run in domain.runs for b in frame_blocks(domain, run, 1, 30)]
    forces = np.concatenate([b.forces[valid_frames(b.coords, b.forces, 1e4)][:, atoms] for b in parts])
    norm = np.linalg.norm(forces.astype(float), axis=-1)
    return norm.size, norm.mean(), norm.max(), np.sqrt(np.mean(forces.astype(float) ** 2))


def species_name(resname):
    try:
        return RESIDUES[species_of(resname)]
    except ValueError:
        return ""


def test_page(path, tmp_path):
    page = tmp_path / "pages" / "raw.html"
    inspect([str(path)], Options(html=page), Console(quiet=True))
    text = page.read_text()
    assert "AHG/SV" in text and len(valid_figures(page)) == 2 and "Atomic forces by residue" in text


def test_stride_looks_at_fewer_frames(path, capsys):
    inspect([str(path)], Options(stride=10), Console(quiet=True))
    assert "12" in cells(capsys.readouterr().out)


def test_configuration_with_another_format(path, tmp_path, capsys):
    """The same molecule as npz: the sequence and the number of frames are on the screen."""
    domain = read_domain(path, "1abcA00")
    (block,) = frame_blocks(domain, domain.runs[-1], 1, 30)
    assert domain.bonds is not None
    a = domain.atoms
    np.savez(
        tmp_path / "run.npz", R=block.coords, F=block.forces, name=a.name, resname=a.resname, resid=a.resid,
        z=a.z, bonds=domain.bonds,
    )  # fmt: skip
    files = [{"path": str(tmp_path / "run.npz"), "temperature_K": 300}]
    data = parse({"data": {"trajectories": [{"name": "mini", "files": files}]}}, "test").data
    assert data is not None
    inspect_data(data, Options(), Console(quiet=True))
    shown = cells(capsys.readouterr().out)
    assert "AHG/SV;" in shown and "300" in shown and "30" in shown


def test_limit_decides_what_is_bad(path):
    """The mini domain is 29 Å long: with a limit of 20 Å no frame is valid."""
    with pytest.raises(InputError, match="coordinate above 20 Å"):
        inspect([str(path)], Options(limit_A=20.0), Console(quiet=True))


@pytest.fixture
def run(path, tmp_path):
    """A run folder with a prepared data set."""
    config = {"data": {"raw": [str(path)], "split": {"by": "replica"}}, "cluster": {"kind": "inline"}}
    run_stage("prepare", parse(config, "test"), tmp_path / "out", Console(quiet=True))
    return tmp_path / "out"


def test_data_set_and_run_folder(run, capsys):
    for folder in (run, run / "prepare"):
        inspect([str(folder)], Options(), Console(quiet=True))
        shown = cells(capsys.readouterr().out)
        row = shown[shown.index("1abcA00") :]
        assert row[:7] == ["1abcA00", "5", "116", "60", "4", "1", "0"]
        text = " ".join(shown)
        assert "AHG/SV;" in shown and "580 residue-frames" in text and "not verified" in text
        assert "held out by replica" in text and "within ±1 residues" in text and "force_map_ratio" in text


def test_cost_of_training_is_measured(run, capsys):
    config = {
        "model": {
            "name": "allegro", "cutoff_A": 8, "channels": 4, "hidden": 8, "layers": 1, "l_max": 0,
            "n_bessel": 4,
        },
        "train": {"epochs": 3, "batch_beads": 20},
    }  # fmt: skip
    inspect([str(run / "prepare")], Options(estimate=parse(config, "test")), Console(quiet=True))
    shown = cells(capsys.readouterr().out)
    text = " ".join(shown)
    assert "training frames 56" in text and "residue-frames 280" in text and "beads of a batch 20" in text
    assert 14 <= float(shown[shown.index("epoch", shown.index("steps")) + 1]) <= 17
    assert float(shown[shown.index("step", shown.index("packing")) + 1]) > 0
    with pytest.raises(InputError, match="needs a network"):
        inspect([str(run)], Options(estimate=parse({"train": {"epochs": 1}}, "test")), Console(quiet=True))


def test_verify_finds_a_flipped_bit(run, capsys):
    inspect([str(run)], Options(verify=True), Console(quiet=True))
    assert "every byte is as it was written" in " ".join(cells(capsys.readouterr().out))
    forces = run / "prepare" / "domains" / "1abcA00" / "forces.npy"
    content = bytearray(forces.read_bytes())
    content[5000] ^= 4
    forces.write_bytes(content)
    with pytest.raises(InputError, match=r"forces\.npy: content is damaged"):
        inspect([str(run)], Options(verify=True), Console(quiet=True))


def test_stage_folder_without_a_data_set(tmp_path, capsys):
    with artifacts.stage_folder(tmp_path, "evaluate", parse({}, "test"), "f", {}) as stage:
        stage.record.metric("rmse", 2.5, unit="kcal/mol/Å", stderr=0.25)
        stage.record.check("low", False, 3.0, 2.0)
    inspect([str(tmp_path / "evaluate")], Options(), Console(quiet=True))
    text = " ".join(cells(capsys.readouterr().out))
    assert "rmse 2.5 0.25 kcal/mol/Å" in text and "check low 3 limit 2 FAILED" in text


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="matches no file"):
        inspect([str(tmp_path / "nothing.h5")], Options(), Console(quiet=True))
