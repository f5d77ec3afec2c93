"""The bundle: what is written is what is read, and what was changed is refused."""

import gc
import hashlib
import json
import shutil
import zipfile

import numpy as np
import pytest

from cgrefine.checkpoint import load_params, save_params
from cgrefine.config.running import Export
from cgrefine.energy import SumOfTerms
from cgrefine.errors import InputError
from cgrefine.export import fresh
from cgrefine.export.bundle import load_bundle, read_meta, write_bundle
from cgrefine.export.sealed import check_seal, seal, write_zip
from cgrefine.export.verify import term_values
from cgrefine.residues import RESIDUES
from tests.export import toy


@pytest.fixture
def copy(bundle_folder, tmp_path):
    return shutil.copytree(bundle_folder, tmp_path / "bundle")


def edited(folder, **changes):
    """Change meta.json, and seal the folder again."""
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **changes}))
    return seal(folder)


def test_a_bundle_says_what_it_is(bundle):
    meta = bundle.meta
    assert meta["species_order"] == list(RESIDUES)
    assert [t["name"] for t in meta["terms"]] == ["bond", "angle", "dihedral", "repulsion", "network"]
    described = {t["name"]: t for t in meta["terms"]}
    window = {"kind": "pair", "min_separation": 3, "max_separation": None}
    assert described["repulsion"] == {"name": "repulsion", "cutoff_A": 6.5, **window}
    assert described["dihedral"]["damping"] is None
    arguments = meta["network"]["signature"]["arguments"]
    names = ["positions", "remainders", "species", "senders", "receivers", "edge_mask"]
    assert [a["name"] for a in arguments] == names
    assert arguments[0] == {"name": "positions", "dtype": "float32", "shape": ["n", 3]}
    listed = {str(p.relative_to(bundle.folder)) for p in bundle.folder.rglob("*") if p.is_file()}
    assert set(check_seal(bundle.folder)) == listed - {"SHA256SUMS"}
    assert bundle.digest == hashlib.sha256((bundle.folder / "SHA256SUMS").read_bytes()).hexdigest()


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
    "name",
    ["network.stablehlo", "reference.npz", "priors.npz", "lammps/in.lammps", "lammps/bond.table"],
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
    seal(copy)
    with pytest.raises(InputError, match="differ from the stored reference"):
        load_bundle(copy)


def test_a_miscompiling_jaxlib_is_refused(copy, monkeypatch):
    monkeypatch.setattr("cgrefine.versions.metadata.version", lambda package: "0.10.2")
    with pytest.raises(InputError, match=r"jaxlib 0\.10\.2 is refused"):
        load_bundle(copy)


def test_another_digest_is_refused(bundle_folder, bundle):
    with pytest.raises(InputError, match=f"its digest is {bundle.digest}, and 0000 is demanded"):
        load_bundle(bundle_folder, "0000")


def test_a_list_of_hashes_that_was_changed_has_another_digest(copy, bundle):
    """A file and its hash changed together: every file agrees, the digest does not."""
    (copy / "lammps" / "in.lammps").write_text("clear\n")
    seal(copy)
    assert check_seal(copy)
    with pytest.raises(InputError, match=r"its digest is .* is demanded"):
        load_bundle(copy, bundle.digest)


def test_a_damaged_list_is_refused(copy):
    (copy / "SHA256SUMS").write_text("no hash\n")
    with pytest.raises(InputError, match="'no hash' is no line of a list of hashes"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": {"length": "nm"}}, "units of length is 'nm', this version has 'Å'"),
        ({"species_order": ["GLY"]}, r"species_order is \['GLY'\], this version has \['ALA'"),
        ({"format": 3}, "a bundle of format 3, and this version reads format 4: export it again"),
        ({"topology": {"bead": "Cβ"}}, "topology of bead is 'Cβ'"),
    ],
)
def test_a_bundle_of_other_units_species_or_format_is_refused(copy, changes, message):
    edited(copy, **changes)
    with pytest.raises(InputError, match=message) as told:
        load_bundle(copy)
    assert str(told.value).startswith(str(copy)) and "\n" not in str(told.value)


def test_a_zip_is_the_folder(bundle_folder, bundle, tmp_path):
    """The same digest and answers; what it was unpacked into is gone with the bundle."""
    path = tmp_path / "toy.zip"
    write_zip(bundle_folder, path)
    write_zip(bundle_folder, tmp_path / "again.zip")
    assert path.read_bytes() == (tmp_path / "again.zip").read_bytes()
    loaded = load_bundle(path, bundle.digest)
    assert loaded.selftest == bundle.selftest and loaded.lammps.is_dir()
    assert read_meta(path) == bundle.meta
    place = loaded.folder
    del loaded
    gc.collect()
    assert not place.exists()


def test_a_damaged_zip_is_refused(bundle_folder, tmp_path):
    path = tmp_path / "toy.zip"
    write_zip(bundle_folder, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"toy\.zip"):
        load_bundle(path)
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(InputError, match="is no zip of a bundle"):
        load_bundle(tmp_path / "text.zip")


def test_a_zip_does_not_write_outside_of_its_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../outside", "x")
    with pytest.raises(InputError, match=r"'\.\./outside' in it leads out of its folder"):
        load_bundle(tmp_path / "bad.zip")


def test_a_bundle_that_fails_its_test_never_appears(tmp_path, monkeypatch):
    """The network compiles to something else than the reference says: nothing is left behind."""

    def scaled(*arguments):
        values = term_values(*arguments)
        wrong = values["network"]._replace(forces=1.01 * values["network"].forces)
        return {**values, "network": wrong}

    monkeypatch.setattr("cgrefine.export.bundle.term_values", scaled)
    parts = (toy.MODEL, toy.params(), toy.topology(), toy.frames(), "toy", Export(reference_frames=1))
    with pytest.raises(InputError, match="differ from the stored reference"):
        write_bundle(tmp_path / "b.zip", *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.stages
def test_a_fresh_process_reads_it_without_training_code(bundle_folder, bundle):
    assert fresh.load(bundle_folder, bundle.digest) == pytest.approx(
        bundle.selftest.max_force_error, abs=1e-6
    )


def test_two_networks_do_not_fit(tmp_path):
    model = SumOfTerms((toy.NETWORK, toy.NETWORK))
    with pytest.raises(ValueError, match="one network"):
        write_bundle(tmp_path / "b", model, toy.params(), toy.topology(), toy.frames(), "toy", Export())
