"""Reading of mdCATH files: what is read is what was written, and every bad file gives its one sentence."""

import h5py
import numpy as np
import pytest

from cgrefine.data.mdcath import domain_names, expand, read_domain
from cgrefine.data.source import first_valid_frame, frame_blocks, select_runs, valid_frames
from cgrefine.errors import InputError
from tests.data.mini import Mini, edit

RUN = "1abcA00/320/0"


@pytest.fixture
def mini():
    return Mini()


@pytest.fixture
def path(mini, tmp_path):
    return mini.write(tmp_path / "mdcath_dataset_1abcA00.h5")


def first_frame(path):
    domain = read_domain(path, "1abcA00")
    return first_valid_frame(domain, domain.runs, 1e4, 1, 7)


def test_atoms_and_bonds_are_those_written(mini, path):
    domain = read_domain(path, "1abcA00")
    assert domain.atoms.name.tolist() == mini.atom
    assert np.array_equal(domain.atoms.residue, mini.residue)
    assert np.array_equal(domain.atoms.z, mini.z)
    assert domain.bonds is not None and np.array_equal(domain.bonds, mini.bonds)  # the water's bonds are gone
    assert [run.key for run in domain.runs] == ["320/0", "320/1", "450/0", "450/1"]


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("block_frames", [1, 7, 100])
def test_blocks_are_slices_of_the_run(mini, path, stride, block_frames):
    domain = read_domain(path, "1abcA00")
    blocks = list(frame_blocks(domain, domain.runs[2], stride, block_frames))
    coords, forces = mini.trajectory(450, 0)
    assert max(len(block.frame) for block in blocks) <= block_frames
    assert np.array_equal(np.concatenate([b.frame for b in blocks]), np.arange(0, mini.frames, stride))
    assert np.array_equal(np.concatenate([b.coords for b in blocks]), coords[::stride])
    assert np.array_equal(np.concatenate([b.forces for b in blocks]), forces[::stride])


def test_several_domains_in_one_file(mini, path):
    Mini(name="2xyzB01", residues=("ALA", "GLY", "SER"), gap_before=()).write(path, mode="a")
    assert domain_names(path) == ("1abcA00", "2xyzB01")
    assert len(read_domain(path, "2xyzB01").atoms) == 25


def test_expand_takes_files_globs_and_folders_each_once(path, tmp_path):
    other = Mini(name="b").write(tmp_path / "other.hdf5")
    assert expand([str(path)]) == (path,)
    assert expand([str(tmp_path / "mdcath_*.h5"), str(tmp_path)]) == (path, other)


@pytest.mark.parametrize("entry", ["absent.h5", "absent_*.h5", "empty"])
def test_expand_refuses_what_matches_nothing(tmp_path, entry):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=entry.split(".")[0].replace("*", r"\*")):
        expand([str(tmp_path / entry)])


def test_temperatures_are_selected_and_unknown_ones_named(path):
    domain = read_domain(path, "1abcA00")
    assert [run.key for run in select_runs(domain, [450.0])] == ["450/0", "450/1"]
    with pytest.raises(InputError, match=r"no run at 348 K .* there are 320, 450"):
        select_runs(domain, [320.0, 348.0])


def test_valid_frames_leaves_out_each_kind_of_broken_frame(mini):
    coords, forces = mini.trajectory(320, 0)
    coords[1, 3, 0] = np.nan
    coords[2] = 2.1e7
    coords[3] = 0.0
    coords[4, 5:] = 0.0  # a frame cut while it was written
    forces[5, 0, 1] = np.inf
    forces[6] = 0.0
    coords[7, 0] = 0.0  # one atom at the origin is possible
    good = valid_frames(coords, forces, 1e4)
    assert np.flatnonzero(~good).tolist() == [1, 2, 3, 4, 5, 6]


def test_first_valid_frame_skips_broken_ones(mini, path):
    edit(path, f"{RUN}/coords", lambda x: np.where(np.arange(len(x))[:, None, None] < 9, np.nan, x))
    coords, _ = first_frame(path)
    assert np.array_equal(coords, mini.trajectory(320, 0)[0][9])


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"gone\.h5: no such file"):
        domain_names(tmp_path / "gone.h5")


def test_not_hdf5(tmp_path):
    bad = tmp_path / "text.h5"
    bad.write_text("ATOM      1  N   ALA\n" * 200)
    with pytest.raises(InputError, match=r"text\.h5: is not an HDF5 file"):
        domain_names(bad)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_hdf5(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"truncated or damaged"):
        first_frame(path)


def test_hdf5_without_domains(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1.0
    with pytest.raises(InputError, match="holds no mdCATH domain"):
        domain_names(tmp_path / "other.h5")


def test_domain_without_ca(tmp_path):
    path = Mini(residues=("ACE", "NME"), gap_before=()).write(tmp_path / "caps.h5")
    with pytest.raises(InputError, match=r"caps\.h5: domain 1abcA00: no residue has a Cα .* ACE, NME"):
        first_frame(path)


@pytest.mark.parametrize(
    ("key", "change"),
    [("forces", lambda f: f[:-3]), ("coords", lambda x: x[:, :-1]), ("forces", lambda f: f[..., :2])],
)
def test_shape_mismatch_of_coords_and_forces(path, key, change):
    edit(path, f"{RUN}/{key}", change)
    with pytest.raises(InputError, match=r"run 320/0: coords \(.*\) and forces \(.*\) must both be"):
        first_frame(path)


def test_atom_count_mismatch(path):
    edit(path, "1abcA00/z", lambda z: z[:-1])
    with pytest.raises(InputError, match="numbers of atoms differ: resname 49, resid 49, z 48"):
        first_frame(path)


@pytest.mark.parametrize("key", ["320/0/forces", "z", "pdbProteinAtoms"])
def test_missing_field(path, key):
    with h5py.File(path, "a") as file:
        del file[f"1abcA00/{key}"]
    with pytest.raises(InputError, match=f"'{key.rsplit('/', 1)[-1]}' is missing"):
        first_frame(path)


@pytest.mark.parametrize("bad", [np.nan, 2.1e7, 0.0])
def test_all_frames_broken(path, bad):
    for run in ("320/0", "320/1", "450/0", "450/1"):
        edit(path, f"1abcA00/{run}/coords", lambda x: np.full_like(x, bad))
    with pytest.raises(InputError, match=r"no valid frame in 4 runs: .*coordinate_limit_A"):
        first_frame(path)


@pytest.mark.parametrize(
    ("key", "factor", "message"),
    [
        ("coords", 0.1, r"distance of consecutive Cα is 0\.38. Å.*nm instead of Å"),
        ("coords", 10.0, r"distance of consecutive Cα is 38\.. Å"),
        ("forces", 41.84, r"root mean square of forces is .* must be 0\.1 to 400"),
        ("forces", 1 / 1185.8, r"root mean square of forces"),
    ],
)
def test_values_in_another_unit(path, key, factor, message):
    edit(path, f"{RUN}/{key}", lambda x: x * np.float32(factor))
    with pytest.raises(InputError, match=message):
        first_frame(path)


@pytest.mark.parametrize(("key", "unit"), [("coords", "bohr"), ("forces", "Ha/bohr")])
def test_unit_attribute(tmp_path, key, unit):
    mini = Mini()
    mini.units[key] = unit
    with pytest.raises(InputError, match=f"{key} has unit '{unit}', must be"):
        read_domain(mini.write(tmp_path / "unit.h5"), mini.name)


def test_psf_of_another_molecule(path):
    edit(path, "1abcA00/psf", lambda text: text.replace(b"HSD  CB", b"HSD  XX"))
    with pytest.raises(InputError, match=r"atom 17 is HSD 13 CB in the PDB but XX in psf"):
        first_frame(path)


def test_cut_psf(path):
    edit(path, "1abcA00/psf", lambda text: text[: text.index(b"!NBOND") + 60])
    with pytest.raises(InputError, match=r"!NBOND announces 50 bonds and holds"):
        first_frame(path)
