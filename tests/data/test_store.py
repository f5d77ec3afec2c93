"""The data set on disk: what is read is what was written; damage is told, not computed with."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrefine.data import store
from cgrefine.data.segments import MAX_OFF_GRID, snapped
from cgrefine.data.shards import sealed
from cgrefine.data.store import finished, in_memory, open_dataset, write_domain, write_index
from cgrefine.errors import InputError
from cgrefine.system import topology_from_species

N, F = 5, 8
TOPOLOGY = topology_from_species([0, 7, 14, 3, 4], breaks=[3], resid=[5, 6, 7, 20, 21])


def arrays(seed, f=F, grid=False):
    """Random frames of two runs, the last two frames held out."""
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=20.0, size=(f, N, 3))
    return {
        "positions": ((np.rint(100 * x) / 100) if grid else x).astype(np.float32),
        "forces": rng.normal(scale=30.0, size=(f, N, 3)).astype(np.float32),
        "temperature_K": np.where(np.arange(f) < f // 2, np.float32(320.0), np.float32(413.5)),
        "replica": (np.arange(f) >= f // 2).astype(np.int32),
        "frame": (3 + 5 * (np.arange(f) % max(f // 2, 1))).astype(np.int32),
        "validation": np.arange(f) >= f - 2,
    }


def write_store(folder, **options):
    entries = [
        write_domain(folder, name, TOPOLOGY, arrays(s, grid=s == 1), {"n_atoms": 60}, **options)
        for s, name in enumerate(("b2", "a1"))
    ]
    write_index(folder, entries, {"split": {"by": "replica"}})


@pytest.fixture
def folder(tmp_path):
    write_store(tmp_path)
    return tmp_path


def test_round_trip(folder):
    dataset = open_dataset(folder)
    names = []
    dataset.verify(names.append)
    assert [domain.name for domain in dataset.domains] == names == ["b2", "a1"]
    for seed, name in enumerate(names):
        domain = dataset.domain(name)
        assert (domain.n_frames, domain.n_beads) == (F, N)
        for key, values in arrays(seed, grid=seed == 1).items():
            found = np.asarray(getattr(domain, key))
            assert np.array_equal(found, values) and found.dtype == values.dtype
    domain = dataset.domain("a1")
    assert domain.topology.bonds.tolist() == [[0, 1], [1, 2], [3, 4]]
    assert domain.topology.sequence[3] - domain.topology.sequence[2] > 100
    assert domain.topology.resid.tolist() == [5, 6, 7, 20, 21]
    assert dataset.index["split"] == {"by": "replica"} and dataset.index["domains"][0]["n_atoms"] == 60
    assert not list(folder.rglob("*.partial"))


def test_energies_are_kept_from_their_mean(tmp_path):
    """float32 of numbers near -1e6 would be off by 0.03; of a domain without them there is no file."""
    energies = -1e6 + np.linspace(0.0, 7.0, F)
    more = {**arrays(3), "energies": energies}
    entries = [
        write_domain(tmp_path, "with", TOPOLOGY, more, {}),
        write_domain(tmp_path, "without", TOPOLOGY, arrays(4), {}),
    ]
    write_index(tmp_path, entries, {})
    dataset = open_dataset(tmp_path)
    found, nothing = dataset.domain("with").energies, dataset.domain("without").energies
    assert found is not None and nothing is None
    assert np.allclose(np.asarray(found), energies - energies.mean(), atol=1e-6)
    assert found[2] == np.asarray(found)[2] and found.shape == (F,)
    assert np.array_equal(np.asarray(in_memory("m", TOPOLOGY, more).energies), np.asarray(found))
    dataset.verify()
    path = tmp_path / "domains" / "with" / "energies.npy"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="energies"):
        dataset.verify()


def test_compact_form_is_twelve_bytes_a_bead(tmp_path):
    entry = write_domain(tmp_path, "a", TOPOLOGY, arrays(1, f=400, grid=True), {}, forces="float16")
    assert [entry["arrays"][key]["dtype"] for key in ("positions", "forces")] == ["int16", "float16"]
    sizes = [path.stat().st_size for path in (tmp_path / "domains" / "a").glob("*.npy")]
    assert sum(sizes) - 2 * 128 == 12 * 400 * N
    for key in ("positions", "forces"):
        shape = np.load(tmp_path / "domains" / "a" / f"{key}.npy", mmap_mode="r").shape
        assert shape == (400, N, 3)


def test_frames_are_indexed_like_arrays(folder):
    domain, x = open_dataset(folder).domain("a1"), arrays(1, grid=True)["positions"]
    mask = np.arange(F) % 3 == 0
    empty = np.zeros(0, int)
    for index in (2, -1, np.int64(3), slice(None), slice(6, 1, -2), [4, 0, 0, -1], mask, empty, ~mask):
        assert np.array_equal(domain.positions[index], x[index])
    assert domain.positions.shape == x.shape and len(domain.positions) == F
    assert all(np.array_equal(one, other) for one, other in zip(domain.positions, x, strict=True))
    on_disk: Any = domain.positions
    for index in (F, -F - 1, [0, F], mask[:-1], np.zeros(2), (0, 1)):
        with pytest.raises(IndexError):
            on_disk[index]


def test_an_open_store_holds_no_descriptor(folder):
    before = len(os.listdir("/proc/self/fd"))
    dataset = open_dataset(folder)
    assert dataset.domains[0].positions[0].shape == (N, 3)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_same_frames_give_the_same_bytes(folder, tmp_path):
    write_store(tmp_path / "again")
    for path in sorted(p for p in (tmp_path / "again").rglob("*") if p.is_file()):
        assert (folder / path.relative_to(tmp_path / "again")).read_bytes() == path.read_bytes()


# --- encoding ---


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([1.0, 300.0, 2e4]), st.booleans())
def test_grid_coordinates_come_back_exactly(tmp_path_factory, seed, f, drift, shifted):
    """Multiples of 0.01 Å, far from the origin and drifting, in float32: int16, and the nearest float32."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(scale=drift, size=(f, 1, 3)), axis=0) * 100 + (2e5 if shifted else 0)
    grid = np.rint(walk + rng.uniform(-30000, 30000, (f, N, 3)))
    values = {**arrays(seed, f), "positions": (grid / 100).astype(np.float32)}
    folder = tmp_path_factory.mktemp("store")
    entry = write_domain(folder, "a", TOPOLOGY, values, {})
    write_index(folder, [entry], {})
    domain = open_dataset(folder).domains[0]
    # float32 Å, then times 100: two roundings of 2⁻²⁴ each, which may be off the grid by MAX_OFF_GRID
    small = np.abs(grid).max(initial=0) < MAX_OFF_GRID * 2**23
    assert not small or entry["arrays"]["positions"]["dtype"] == "int16"
    for key in values:
        assert np.array_equal(np.asarray(getattr(domain, key)), values[key])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(1, 3)), max_size=60))
def test_segments_decode_to_what_they_encode(steps):
    """Any sequence of runs, parts and strides, frames left out included."""
    columns = np.asarray(steps, int).reshape(-1, 3)
    per_frame = {
        "temperature_K": np.asarray([320.0, 413.3], np.float32)[columns[:, 0]],
        "replica": columns[:, 0].astype(np.int32),
        "frame": (np.cumsum(columns[:, 2]) % 17).astype(np.int32),
        "validation": columns[:, 1].astype(bool),
    }
    x = np.zeros((len(steps), N, 3))
    domain = in_memory("a", TOPOLOGY, {"positions": x, "forces": x, **per_frame})
    for key, values in per_frame.items():
        found = getattr(domain, key)
        assert np.array_equal(found, values) and found.dtype == values.dtype


def test_a_whole_run_is_one_segment():
    rows = np.arange(1000)
    per_frame = {"temperature_K": rows // 500, "replica": 0 * rows, "frame": 5 * (rows % 500)}
    x = np.zeros((1000, N, 3))
    domain = in_memory("a", TOPOLOGY, {"positions": x, "forces": x, **per_frame, "validation": rows < 0})
    assert domain.segments.count.tolist() == [500, 500] and domain.segments.stride.tolist() == [5, 5]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-65500, 65500, width=32), min_size=3 * N, max_size=3 * N))
def test_float16_forces_keep_the_stated_error(tmp_path_factory, values):
    folder, forces = tmp_path_factory.mktemp("store"), np.asarray(values, np.float32).reshape(1, N, 3)
    one = {key: column[:1] for key, column in arrays(0).items()}
    write_index(
        folder, [write_domain(folder, "a", TOPOLOGY, {**one, "forces": forces}, {}, forces="float16")], {}
    )
    found = open_dataset(folder).domains[0].forces[0]
    assert np.all(np.abs(found - forces[0]) <= np.maximum(2.0**-11 * np.abs(forces[0]), 2.0**-25))


def test_what_does_not_fit_is_refused(tmp_path):
    big = arrays(0)
    big["forces"][3, 2, 1] = 7e4
    with pytest.raises(ValueError, match=r"domain a: a force of 70000 kcal/mol/Å exceeds float16"):
        write_domain(tmp_path, "a", TOPOLOGY, big, {}, forces="float16")
    with pytest.raises(ValueError, match=r"domain a: positions do not fit int16 .* grid 0\.0"):
        write_domain(tmp_path, "a", TOPOLOGY, arrays(0), {}, positions="int16")
    wide = arrays(1, grid=True)
    wide["positions"][4, 0, 0] += 700
    with pytest.raises(ValueError, match="wider than 655"):
        write_domain(tmp_path, "a", TOPOLOGY, wide, {}, positions="int16")
    assert write_domain(tmp_path, "a", TOPOLOGY, wide, {})["arrays"]["positions"]["dtype"] == "float32"
    for key in ("positions", "forces"):
        with pytest.raises(ValueError, match=f"{key} are not all finite"):
            write_domain(tmp_path, "b", TOPOLOGY, {**arrays(0), key: np.full((F, N, 3), np.nan)}, {})


def test_off_grid_coordinates_are_seen():
    """A float32 that went from nm to Å is on the grid; one coordinate half a grid off is not."""
    grid = np.arange(-40_000, 40_000, 7)
    from_nm = (grid.astype(np.float32) / np.float32(1000.0)) * np.float32(10.0)
    assert snapped(from_nm).fits
    spoiled = (grid / 100).astype(np.float32)
    spoiled[77] += 0.004
    _, fits, largest = snapped(spoiled)
    assert not fits and largest == pytest.approx(0.004, abs=1e-4)


# --- writing once, and going on ---


def test_finished_domains_are_known_by_content(folder):
    index = json.loads((folder / "dataset.json").read_text())
    assert finished(folder, "a1") == index["domains"][1]
    assert finished(folder, "c3") is None
    path = folder / "domains" / "a1" / "forces.npy"
    content = bytearray(path.read_bytes())
    content[200] ^= 4
    path.write_bytes(bytes(content))
    assert finished(folder, "a1") is None
    again = write_domain(folder, "a1", TOPOLOGY, arrays(1, grid=True), {"n_atoms": 60})
    assert again == index["domains"][1] == finished(folder, "a1")


def test_a_killed_writer_leaves_nothing_behind(folder, monkeypatch):
    """Cut off before the rename: no domain of that name, and the index sweeps the rest away."""

    def killed(partial, final):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "_put_in_place", killed)
        write_domain(folder, "c3", TOPOLOGY, arrays(5), {})
    assert finished(folder, "c3") is None and list(folder.rglob("*.partial"))
    entries = [finished(folder, "b2"), write_domain(folder, "c3", TOPOLOGY, arrays(5), {})]
    write_index(folder, entries, {})
    assert [d.name for d in open_dataset(folder).domains] == ["b2", "c3"]
    assert not list(folder.rglob("*.partial"))


def test_write_refuses_bad_shapes_names_and_a_second_time(folder):
    topology = topology_from_species([0] * N)
    with pytest.raises(ValueError, match="frame has shape"):
        write_domain(folder, "c3", topology, {**arrays(0), "frame": np.arange(3)}, {})
    assert not (folder / "domains" / "c3").exists()
    with pytest.raises(InputError, match="domain name"):
        write_domain(folder, "..", topology, arrays(0), {})
    with pytest.raises(InputError, match="exists already"):
        write_domain(folder, "a1", topology, arrays(0), {})


# --- damage ---


def test_unknown_domain_lists_names(folder):
    with pytest.raises(InputError, match="no domain 'zz'; choose from b2, a1"):
        open_dataset(folder).domain("zz")


def test_no_data_set(tmp_path):
    with pytest.raises(InputError, match="is no data set"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone", "text", "other shape", "other type", "pickle"])
def test_damaged_array(folder, damage):
    path = folder / "domains" / "a1" / "forces.npy"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-50])
    elif damage == "gone":
        path.unlink()
    elif damage == "text":
        path.write_bytes(b"no array")
    elif damage == "pickle":
        np.save(path, np.asarray([{"a": 1}], dtype=object))
    else:
        np.save(path, np.zeros((F, N - 1, 3), "f4") if damage == "other shape" else np.zeros((F, N, 3)))
    with pytest.raises(InputError, match=r"forces\.npy: is"):
        open_dataset(folder)


def test_a_file_cut_after_opening_is_an_error_and_no_crash(folder):
    domain = open_dataset(folder).domain("a1")
    assert domain.forces[0].shape == (N, 3)
    path = folder / "domains" / "a1" / "forces.npy"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"forces\.npy: is cut \(50 bytes are missing\)"):
        domain.forces[F - 1]
    path.unlink()
    with pytest.raises(InputError, match="is missing"):
        domain.forces[0]


def test_damage_at_the_ends_is_seen_by_the_first_read(folder):
    path = folder / "domains" / "b2" / "positions.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    dataset = open_dataset(folder)
    with pytest.raises(InputError, match=r"positions\.npy: content is damaged"):
        dataset.domains[0].positions[0]
    with pytest.raises(InputError, match=r"positions\.npy: content is damaged"):
        dataset.verify()


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_any_damage_is_told(tmp_path_factory, data):
    """One file of the store is cut anywhere or has any bit flipped: an InputError, and nothing else."""
    folder = Path(tmp_path_factory.getbasetemp()) / "damaged"
    if not folder.exists():
        write_store(folder)
    path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
    content = path.read_bytes()
    if data.draw(st.booleans()):
        damaged = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        position, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
        damaged = content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :]
    path.write_bytes(damaged)
    try:
        with pytest.raises(InputError):
            open_dataset(folder).verify()
        assert path.name == "dataset.json" or finished(folder, path.parent.name) is None
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=1), "format is 1, this version reads 2; run `cgrefine prepare` again"),
        (lambda c: c["domains"][0].pop("sequence"), "'sequence'"),
        (lambda c: c["domains"][0].update(name="../b2"), "no plain file name"),
        (lambda c: c["domains"][0]["segments"].pop(), "segments"),
        (lambda c: c["domains"][0]["segments"][0].__setitem__(1, 99), "segments do not follow"),
        (lambda c: c["domains"][0]["arrays"]["forces"].update(dtype="float64"), r"forces\.dtype"),
        (lambda c: c.update(domains=[]), "holds no domain"),
    ],
)
def test_a_wrong_index_is_told_even_with_a_right_hash(folder, change, message):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    change(content)
    path.write_bytes(sealed(content))
    with pytest.raises(InputError, match=message):
        open_dataset(folder)


def test_an_edited_index_is_refused(folder):
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace('"by": "replica"', '"by": "domain"'))
    with pytest.raises(InputError, match="content is damaged"):
        open_dataset(folder)
