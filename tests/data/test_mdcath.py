"""Reading of mdCATH files: what is read is what was written, and every bad file gives its one sentence.

The format has no checksums, so a flipped bit of a coordinate, a force or a bond is a number like any other;
the store that is written from it has checksums. Everything else that is damaged is refused, or harmless.
"""

import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrefine.data import hdf5_frames
from cgrefine.data.mdcath import domain_names, expand, read_domain
from cgrefine.data.source import check_values, first_valid_frame, frame_blocks, select_runs, valid_frames
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


# --- layouts and quirks


def all_frames(domain, run, stride=1, block_frames=7):
    blocks = list(frame_blocks(domain, run, stride, block_frames))
    return [np.concatenate([np.asarray(b[k]) for b in blocks]) for k in range(3)]


def test_contiguous_frames_are_views_of_the_file(path):
    domain = read_domain(path, "1abcA00")
    block = next(frame_blocks(domain, domain.runs[0], 2, 5))
    for values in (block.coords, block.forces):
        assert not values.flags.owndata and not values.flags.writeable and values.dtype == np.float32
        base = values
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap)
    with h5py.File(path, "a"):
        pass  # no lock is left


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (4, 10, 1), "compression": "gzip"},
        {"chunks": (30, 49, 3)},
        {"chunks": (7, 49, 3), "maxshape": (None, 49, 3), "shuffle": True, "fletcher32": True},
        {"dtype": "<f8"},
        {"dtype": ">f4"},
    ],
)
@pytest.mark.parametrize(("stride", "block_frames"), [(1, 30), (1, 5), (3, 4), (11, 1)])
def test_other_layouts_give_the_same_frames(tmp_path, layout, stride, block_frames):
    mini = Mini(layout=layout, replicas=1)
    domain = read_domain(mini.write(tmp_path / "x.h5"), mini.name)
    frame, coords, forces = all_frames(domain, domain.runs[1], stride, block_frames)
    expected = mini.trajectory(450, 0)
    assert frame.tolist() == list(range(0, 30, stride))
    assert coords.dtype == forces.dtype == np.float32
    assert np.array_equal(coords, expected[0][::stride]) and np.array_equal(forces, expected[1][::stride])


def test_each_chunk_is_read_once(tmp_path, monkeypatch):
    """Blocks of 3 and chunks of 8 frames: each of 4 rows of chunks is read once by each data set."""
    mini = Mini(layout={"chunks": (8, 49, 3), "compression": "gzip"}, temperatures=(320,), replicas=1)
    domain = read_domain(mini.write(tmp_path / "x.h5"), mini.name)
    read = []
    original = h5py.Dataset.__getitem__

    def counted(self, part, *args, **more):
        if isinstance(part, slice):
            read.append((self.name.rsplit("/", 1)[-1], part.start))
        return original(self, part, *args, **more)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    all_frames(domain, domain.runs[0], block_frames=3)
    assert sorted(read) == [(name, start) for name in ("coords", "forces") for start in (0, 8, 16, 24)]


def test_file_cut_between_opening_and_reading(path):
    """The map never reaches beyond the end of the file, which would kill the process."""
    domain = read_domain(path, "1abcA00")
    with h5py.File(path) as file:
        item = file[f"1abcA00/{domain.runs[-1].key}/forces"]
        assert isinstance(item, h5py.Dataset)
        mapped = hdf5_frames.frames_of(item, path)
    assert isinstance(mapped, hdf5_frames.Mapped)
    content = path.read_bytes()
    path.write_bytes(content[: mapped.offset + 100])
    with pytest.raises(InputError, match=r"truncated or damaged \(\d+ bytes, frames up to byte \d+\)"):
        mapped.frames(0, 30, 1)


@pytest.mark.parametrize("group", ["sims{}K", "{}.0"])
def test_names_of_temperature_groups(tmp_path, group):
    mini = Mini(group=group)
    domain = read_domain(mini.write(tmp_path / "x.h5"), mini.name)
    assert [(r.temperature_K, r.replica) for r in domain.runs] == [(320, 0), (320, 1), (450, 0), (450, 1)]
    assert np.array_equal(all_frames(domain, domain.runs[3])[1], mini.trajectory(450, 1)[0])


def test_missing_replicas_are_no_error(path):
    with h5py.File(path, "a") as file:
        del file["1abcA00/320/0"]
        del file["1abcA00/450/1/coords"], file["1abcA00/450/1/forces"]
        for key in ("coords", "forces"):
            file.create_dataset(f"1abcA00/450/1/{key}", (0, 49, 3), np.float32)
    assert [run.key for run in read_domain(path, "1abcA00").runs] == ["320/1", "450/0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.__delitem__("320/1/forces"), "run 320/1: data set 'forces' is missing"),
        (lambda g: g.move("320/1", "320/x"), "320/x is no replica"),
        (lambda g: g.move("320", "3z0"), "group '3z0' is no temperature"),
        (lambda g: g.copy("320", "sims320K"), "runs 320/0 and sims320K/0 are the same replica"),
        (lambda g: g.create_group("379"), "'379' must be a group of replicas"),
    ],
)
def test_broken_runs_are_named(path, change, message):
    with h5py.File(path, "a") as file:
        change(file["1abcA00"])
    with pytest.raises(InputError, match=message):
        read_domain(path, "1abcA00")


@pytest.mark.parametrize(
    ("key", "unit", "factor"), [("coords", "nm", 10.0), ("forces", "kJ/mol/nm", 1 / 41.84)]
)
def test_other_units_by_attribute_are_converted(tmp_path, key, unit, factor):
    mini = Mini()
    mini.units[key] = unit
    path = mini.write(tmp_path / "unit.h5")
    for run in ("320/0", "320/1", "450/0", "450/1"):
        edit(path, f"1abcA00/{run}/{key}", lambda x: x / np.float32(factor))
    domain = read_domain(path, mini.name)
    _, coords, forces = all_frames(domain, domain.runs[0])
    expected = mini.trajectory(320, 0)
    assert np.allclose(coords, expected[0], rtol=1e-6) and np.allclose(forces, expected[1], rtol=1e-6)
    check_values(domain, coords[0], forces[0])


def test_unit_attributes_of_other_data_sets_are_ignored(path):
    with h5py.File(path, "a") as file:
        dssp = file.create_dataset(f"{RUN}/dssp", data=np.zeros((30, 7), "S2"))
        dssp.attrs["unit"] = "nm"  # mdCATH's own mistake
    first_frame(path)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("resid", lambda r: r + (np.arange(49) == 14), "residue boundaries of resid differ"),
        ("z", lambda z: z + (np.arange(49) == 14), "z of elements differ.* atom 15"),
        (
            "pdbProteinAtoms",
            lambda t: t.replace(b"CA  HSD 0", b"CA  HSD 1"),
            "labels in pdbProteinAtoms change inside the residue of atom 13",
        ),
        (
            "psf",
            lambda t: t.replace(b"HSD  CB", b"HSE  CB"),
            "atom 17 is HSD 13 CB in the PDB but in HSE in psf",
        ),
        ("psf", lambda t: t.replace(b"       1       2", b"       0       2", 1), "names atoms 0 to"),
    ],
)
def test_fields_that_are_held_twice_must_agree(path, key, change, message):
    edit(path, f"1abcA00/{key}", change)
    with pytest.raises(InputError, match=message):
        read_domain(path, "1abcA00")


def test_shape_that_the_stored_bytes_do_not_fill(path):
    """One flipped bit of the number of frames in the header of forces and of coords: 30 becomes 14."""
    content = bytearray(path.read_bytes())
    shape = np.asarray([30, 49, 3], "<u8").tobytes()
    at = content.find(shape)
    while at >= 0:
        content[at] ^= 16
        at = content.find(shape, at + 1)
    path.write_bytes(content)
    with pytest.raises(InputError, match="occupies 17640 bytes: the file is damaged"):
        read_domain(path, "1abcA00")


def test_data_sets_in_the_same_place(path):
    """An address that leads to another run's numbers."""
    with h5py.File(path) as file:
        items = [file[f"1abcA00/{run}/coords"] for run in ("320/0", "450/1")]
        first, second = (np.uint64(i.id.get_offset() or 0) for i in items if isinstance(i, h5py.Dataset))
    content = path.read_bytes()
    assert content.count(second.tobytes()) == 1
    path.write_bytes(content.replace(second.tobytes(), first.tobytes()))
    with pytest.raises(InputError, match="320/0/coords and 450/1/coords overlap: the file is damaged"):
        read_domain(path, "1abcA00")


def test_text_heap_that_makes_hdf5_loop_for_ever(path):
    """One flipped bit: the length of a text in the global heap leads into free space."""
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16 + 63 * 24
    assert content[at : at + 2] == b"\x40\x00" and content[at + 8] == 1  # object 64, one character
    content[at + 9] ^= 8
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"truncated or damaged .*text heap"):
        read_domain(path, "1abcA00")


# --- properties

RESIDUE = st.sampled_from(["ALA", "GLY", "SER", "HSD", "HSE", "VAL", "CYS"])


@settings(deadline=None, max_examples=20)
@given(
    middle=st.lists(RESIDUE, min_size=2, max_size=6),
    caps=st.booleans(),
    temperatures=st.sets(st.sampled_from([320, 348, 379, 413, 450]), min_size=1, max_size=3),
    replicas=st.integers(1, 3),
    frames=st.integers(1, 12),
    psf=st.booleans(),
    chunk=st.one_of(st.none(), st.integers(1, 5)),
    stride=st.integers(1, 5),
    block_frames=st.integers(1, 9),
)
def test_round_trip_is_exact(middle, caps, temperatures, replicas, frames, psf, chunk, stride, block_frames):
    residues = ("ACE", *middle, "NME") if caps else tuple(middle)
    mini = Mini(
        residues=residues,
        gap_before=(),
        temperatures=tuple(temperatures),
        replicas=replicas,
        frames=frames,
        psf=psf,
    )
    if chunk is not None:
        mini.layout = {"chunks": (min(chunk, frames), 5, 3), "compression": "gzip"}
    with tempfile.TemporaryDirectory() as folder:
        domain = read_domain(mini.write(Path(folder) / "x.h5"), mini.name)
        assert domain.atoms.name.tolist() == mini.atom and np.array_equal(domain.atoms.residue, mini.residue)
        assert (domain.bonds is not None) == psf
        assert domain.bonds is None or np.array_equal(domain.bonds, mini.bonds)
        assert [(r.temperature_K, r.replica) for r in domain.runs] == [
            (t, r) for t in sorted(temperatures) for r in range(replicas)
        ]
        for run in domain.runs:
            frame, coords, forces = all_frames(domain, run, stride, block_frames)
            expected = mini.trajectory(int(run.temperature_K), run.replica)
            assert frame.tolist() == list(range(0, frames, stride))
            assert coords.tobytes() == expected[0][::stride].tobytes()
            assert forces.tobytes() == expected[1][::stride].tobytes()


class Damaged:
    """A small file, what is read from it, and where its coordinates and forces lie."""

    def __init__(self) -> None:
        mini = Mini(temperatures=(320, 450), replicas=1, frames=3)
        with tempfile.TemporaryDirectory() as folder:
            path = mini.write(Path(folder) / "x.h5")
            self.content = path.read_bytes()
            self.payload = []
            with h5py.File(path) as file:
                for run in ("320/0", "450/0"):
                    for key in ("coords", "forces"):
                        item = file[f"1abcA00/{run}/{key}"]
                        assert isinstance(item, h5py.Dataset)
                        start = item.id.get_offset()
                        assert start is not None and item.size is not None
                        self.payload.append(range(start, start + 4 * item.size))
        self.atoms, self.bonds, self.values = self.read(self.content)

    def read(self, content: bytes):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.h5"
            path.write_bytes(content)
            (name,) = domain_names(path)
            domain = read_domain(path, name)
            a = domain.atoms
            atoms = [x.tolist() for x in (a.name, a.resname, a.segment, a.resid, a.z, a.residue)]
            values = {run.key: np.stack(all_frames(domain, run, 1, 2)[1:]) for run in domain.runs}
            return atoms, domain.bonds, values


@pytest.fixture(scope="module")
def damaged():
    return Damaged()


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_cut_is_an_input_error(damaged, share):
    with pytest.raises(InputError):
        damaged.read(damaged.content[: int(share * len(damaged.content))])


@settings(deadline=None, max_examples=70, derandomize=True)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_an_input_error_or_harmless(damaged, share, bit):
    """Or one wrong number of the payload, or a bond: what the file holds once, without a checksum.

    Derandomised: HDF5 has no defence of its own (a changed digit of a temperature is another temperature).
    """
    content = bytearray(damaged.content)
    at = int(share * len(content))
    content[at] ^= 1 << bit
    try:
        atoms, bonds, values = damaged.read(bytes(content))
    except InputError:
        return
    assert atoms == damaged.atoms
    assert values.keys() == damaged.values.keys()
    wrong = sum(int((values[k].view("u4") != damaged.values[k].view("u4")).sum()) for k in values)
    in_payload = any(at in part for part in damaged.payload)
    assert wrong == (1 if in_payload else 0)
    in_bonds = damaged.content.index(b"!NBOND") < at < damaged.content.index(b"!NTHETA")
    assert np.array_equal(bonds, damaged.bonds) or in_bonds


@settings(deadline=None, max_examples=25)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_flipped_bits_of_topology_texts_never_change_the_topology(damaged, at, bit):
    """Names, residues and elements are held two or three times."""
    content = bytearray(damaged.content)
    start = content.index(b"ATOM      1")
    end = content.index(b"TER\nEND")
    content[start + at % (end - start)] ^= 1 << bit
    try:
        atoms, _, _ = damaged.read(bytes(content))
    except InputError:
        return
    assert atoms[:2] + atoms[3:] == damaged.atoms[:2] + damaged.atoms[3:]
