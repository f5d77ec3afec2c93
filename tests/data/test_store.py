"""The data set on disk: what is read is what was written; damage is told, not computed with."""

import json

import numpy as np
import pytest

from cgrefine.data.store import open_dataset, write_domain, write_index
from cgrefine.errors import InputError
from cgrefine.system import topology_from_species

N, F = 5, 8


def arrays(seed):
    rng = np.random.default_rng(seed)
    vectors = {
        k: rng.normal(size=(F, N, 3)).astype(np.float32) for k in ("positions", "forces", "basic_forces")
    }
    return {
        **vectors,
        "temperature_K": np.full(F, 320.0, np.float32),
        "replica": np.zeros(F, np.int32),
        "frame": np.arange(F, dtype=np.int32),
        "validation": np.arange(F) >= 6,
    }


@pytest.fixture
def folder(tmp_path):
    topology = topology_from_species([0, 7, 14, 3, 4], breaks=[3], resid=[5, 6, 7, 20, 21])
    entries = [
        write_domain(tmp_path, name, topology, arrays(s), {"n_atoms": 60})
        for s, name in enumerate(("b2", "a1"))
    ]
    write_index(tmp_path, entries, {"split": {"by": "replica"}})
    return tmp_path


def test_round_trip(folder):
    dataset = open_dataset(folder)
    dataset.verify()
    assert [domain.name for domain in dataset.domains] == ["b2", "a1"]
    domain = dataset.domain("a1")
    assert domain.n_frames == F
    for key, values in arrays(1).items():
        assert np.array_equal(getattr(domain, key), values) and getattr(domain, key).dtype == values.dtype
        assert isinstance(getattr(domain, key), np.memmap)
    assert domain.topology.bonds.tolist() == [[0, 1], [1, 2], [3, 4]]
    assert domain.topology.sequence[3] - domain.topology.sequence[2] > 100
    assert domain.topology.resid.tolist() == [5, 6, 7, 20, 21]
    assert not list(folder.rglob("*.partial"))


def test_memory_maps_are_read_only(folder):
    with pytest.raises(ValueError, match="read-only"):
        open_dataset(folder).domains[0].positions[0] = 0.0


def test_unknown_domain_lists_names(folder):
    with pytest.raises(InputError, match="no domain 'zz'; choose from b2, a1"):
        open_dataset(folder).domain("zz")


def test_no_data_set(tmp_path):
    with pytest.raises(InputError, match="is no data set"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone", "text", "other shape", "other type"])
def test_damaged_array(folder, damage):
    path = folder / "domains" / "a1" / "forces.npy"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-50])
    elif damage == "gone":
        path.unlink()
    elif damage == "text":
        path.write_bytes(b"no array")
    else:
        np.save(path, np.zeros((F, N - 1, 3), "f4") if damage == "other shape" else np.zeros((F, N, 3)))
    with pytest.raises(InputError, match=r"forces\.npy: is"):
        open_dataset(folder)


def test_pickled_array_is_not_loaded(folder):
    np.save(folder / "domains" / "a1" / "forces.npy", np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"forces\.npy"):
        open_dataset(folder)


def test_changed_content_is_found_by_verify(folder):
    path = folder / "domains" / "b2" / "positions.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    dataset = open_dataset(folder)
    with pytest.raises(InputError, match=r"positions\.npy: content is damaged"):
        dataset.verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=99), "format is 99"),
        (lambda c: c["domains"][0].pop("species"), "'species'"),
        (lambda c: c["domains"][0].update(name="../b2"), "no plain file name"),
        (lambda c: c["domains"][0].update(breaks=[17]), "chain breaks"),
        (lambda c: c.update(domains=[]), "holds no domain"),
    ],
)
def test_damaged_index(folder, change, message):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        open_dataset(folder)


def test_write_refuses_bad_shapes_names_and_a_second_time(folder):
    topology = topology_from_species([0] * N)
    with pytest.raises(ValueError, match="frame has shape"):
        write_domain(folder, "c3", topology, {**arrays(0), "frame": np.arange(3)}, {})
    assert not (folder / "domains" / "c3").exists()
    with pytest.raises(InputError, match="domain name"):
        write_domain(folder, "..", topology, arrays(0), {})
    with pytest.raises(InputError, match="exists already"):
        write_domain(folder, "a1", topology, arrays(0), {})
