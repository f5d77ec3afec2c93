"""The bundle: what is written is what is read, and what was changed is refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cgrefine.artifacts import file_hash
from cgrefine.checkpoint import load_params, save_params
from cgrefine.config.running import Export
from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError
from cgrefine.export.bundle import load_bundle, write_bundle
from cgrefine.residues import RESIDUES
from tests.export import toy


@pytest.fixture
def copy(bundle_folder, tmp_path):
    return shutil.copytree(bundle_folder, tmp_path / "bundle")


def rehash(folder, name):
    """Make meta.json agree with a changed file."""
    meta = json.loads((folder / "meta.json").read_text())
    meta["sha256"][name] = file_hash(folder / name)
    (folder / "meta.json").write_text(json.dumps(meta))


def test_a_bundle_says_what_it_is(bundle):
    meta = bundle.meta
    assert meta["species_order"] == list(RESIDUES)
    assert [t["name"] for t in meta["terms"]] == ["bond", "angle", "dihedral", "repulsion", "network"]
    described = {t["name"]: t for t in meta["terms"]}
    window = {"kind": "pair", "min_separation": 3, "max_separation": None}
    assert described["repulsion"] == {"name": "repulsion", "cutoff_A": 6.5, **window}
    assert described["dihedral"]["damping"] is None
    arguments = meta["network"]["signature"]["arguments"]
    assert [a["name"] for a in arguments] == ["positions", "species", "senders", "receivers", "edge_mask"]
    assert arguments[0] == {"name": "positions", "dtype": "float32", "shape": [24, 3]}
    listed = {str(p.relative_to(bundle.folder)) for p in bundle.folder.rglob("*") if p.is_file()}
    assert set(meta["sha256"]) == listed - {"meta.json"}


def test_topology_and_frames_come_back(bundle):
    expected = toy.topology()
    for name, value in vars(expected).items():
        assert np.array_equal(getattr(bundle.topology, name), value)
    assert np.array_equal(bundle.positions[0], toy.frames()[0])
    assert bundle.reference["bond"].forces.shape == (3, 24, 3)


def test_self_test_measures_float32_rounding(bundle):
    assert 0 < bundle.selftest.max_force_error < 1e-4
    assert bundle.selftest.force_limit == pytest.approx(1e-3)


@pytest.mark.parametrize(
    "name", ["network.stablehlo", "reference.npz", "lammps/in.lammps", "lammps/bond.table"]
)
def test_a_changed_file_is_refused(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(bytes(content))
    with pytest.raises(InputError, match="sha256 differs"):
        load_bundle(copy)


def test_a_missing_file_is_named(copy):
    (copy / "network.stablehlo").unlink()
    with pytest.raises(InputError, match=r"network\.stablehlo: a file of the bundle is missing"):
        load_bundle(copy)


def test_a_folder_without_meta_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"meta\.json"):
        load_bundle(tmp_path)


def test_a_network_that_computes_something_else_is_refused(copy):
    """A compiler that errs by 1 % would look like a reference that is 1 % off."""
    stored = load_params(copy / "reference.npz")
    stored["terms"]["network"]["forces"] = 1.01 * stored["terms"]["network"]["forces"]
    save_params(copy / "reference.npz", stored)
    rehash(copy, "reference.npz")
    with pytest.raises(InputError, match="differ from the stored reference"):
        load_bundle(copy)


def test_a_miscompiling_jaxlib_is_refused(copy, monkeypatch):
    monkeypatch.setattr("cgrefine.versions.metadata.version", lambda package: "0.10.2")
    with pytest.raises(InputError, match=r"jaxlib 0\.10\.2 is refused"):
        load_bundle(copy)


def test_reading_needs_no_training_code(bundle_folder):
    """A fresh process without the fm package, haiku and optax reads, compiles and tests the bundle."""
    code = (
        "import sys; sys.modules['cgrefine.fm'] = sys.modules['haiku'] = sys.modules['optax'] = None\n"
        "from pathlib import Path; from cgrefine.export.bundle import load_bundle\n"
        "sys.stdout.write(str(load_bundle(Path(sys.argv[1])).selftest.max_force_error))"
    )
    command = [sys.executable, "-c", code, str(bundle_folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4


def test_two_networks_do_not_fit(tmp_path):
    model = SumOfTerms((toy.NETWORK, toy.NETWORK))
    with pytest.raises(ValueError, match="one network"):
        write_bundle(tmp_path / "b", model, toy.params(), toy.topology(), toy.frames(), "toy", Export())
