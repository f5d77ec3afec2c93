"""Data of beads in the layout of cameo_cg: what is read, and what is refused in one sentence."""

import json

import numpy as np
import pytest

from cgrefine.config.data import Coarse, Data, ForceMap
from cgrefine.data import plan
from cgrefine.data.aggregate import aggregate
from cgrefine.data.coarse_npz import protein_names, read_coarse
from cgrefine.data.source import frame_blocks
from cgrefine.errors import InputError
from tests.chains import random_chain

NAMES = {"ALA": 0, "GLY": 1, "HSD": 2, "LYS": 3}
CHAINS = (("ALA", "LYS", "GLY", "HSD", "LYS"), ("GLY", "ALA", "ALA"))
N_MAX, FRAMES = 6, (7, 4)


def arrays():
    """Two proteins in the order 0 1 0 1 ... padded to N_MAX with nonsense, as numbers and text only."""
    rng = np.random.default_rng(4)
    total = sum(FRAMES)
    which = np.asarray([0, 1] * FRAMES[1] + [0] * (FRAMES[0] - FRAMES[1]))
    found = {
        "R": np.full((total, N_MAX, 3), np.nan, np.float32),
        "F": rng.normal(0.0, 1e9, (total, N_MAX, 3)).astype(np.float32),
        "species": np.full((total, N_MAX), -1, np.int32),
        "mask": np.zeros((total, N_MAX), np.float32),
        "resid": np.full((total, N_MAX), -1, np.int32),
    }
    for row, protein in enumerate(which):
        chain = CHAINS[protein]
        n = len(chain)
        found["R"][row, :n] = random_chain(n, row)
        found["F"][row, :n] = rng.normal(0.0, 8.0, (n, 3))
        found["species"][row, :n] = [NAMES[name] for name in chain]
        found["mask"][row, :n] = 1.0
        found["resid"][row, :n] = 20 + np.arange(n)
    return {
        **found,
        "N_max": np.asarray([N_MAX], np.int32),
        "protein_id": which,
        "aa_to_id": np.asarray(json.dumps(NAMES)),
    }


def coarse(path, temperature=320.0, units="A,kcal/mol/A", **more):
    files = [{"path": str(path), "temperature_K": temperature, "units": units}]
    return Coarse.model_validate({"files": files, **more})


def written(path, save=np.savez, **change):
    """The arrays with changes; None leaves one out."""
    merged = {**arrays(), **change}
    save(path, **{key: value for key, value in merged.items() if value is not None})
    return path


def frames(domain, stride=1, block_frames=2, run=0):
    blocks = list(frame_blocks(domain, domain.runs[run], stride, block_frames))
    parts = zip(*(block[:3] for block in blocks), strict=True)
    return [np.concatenate(part) for part in parts]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("stride", [1, 3])
def test_each_protein_has_its_frames(tmp_path, save, stride):
    section = coarse(written(tmp_path / "set.npz", save), names=["1abcA00", "2abcA00"])
    truth = arrays()
    for k, name in enumerate(protein_names(section)):
        domain = read_coarse(section, name)
        rows, n = np.flatnonzero(truth["protein_id"] == k)[::stride], len(CHAINS[k])
        index, coords, forces = frames(domain, stride)
        assert domain.name == name and domain.coarse and domain.runs[0].n_frames == FRAMES[k]
        assert tuple(domain.atoms.resname) == CHAINS[k] and domain.atoms.resid.tolist() == [
            *range(20, 20 + n)
        ]
        assert index.tolist() == [*range(0, FRAMES[k], stride)]
        assert np.array_equal(coords, truth["R"][rows, :n]) and np.array_equal(forces, truth["F"][rows, :n])


def test_energies_go_with_their_frames(tmp_path):
    """In kJ/mol here: 4.184 to a kcal/mol. They are stored from their mean."""
    a = arrays()
    energy = 1e6 + np.arange(float(sum(FRAMES)))
    path = written(tmp_path / "set.npz", R=a["R"] / 10, F=a["F"] * np.float32(41.84), U=energy)
    section = coarse(path, units="nm,kJ/mol/nm")
    domain = read_coarse(section, "set-1")
    assert domain.energies
    found = np.concatenate([np.asarray(b.energy) for b in frame_blocks(domain, domain.runs[0], 2, 1)])
    rows = np.flatnonzero(a["protein_id"] == 1)[::2]
    assert np.allclose(found, energy[rows] / 4.184, rtol=1e-12)
    data = Data.model_validate({"coarse": [section.model_dump()]})
    stored = aggregate(domain, domain.runs, (3,), data, ForceMap(kind="basic")).arrays
    assert np.allclose(stored["energies"], energy[a["protein_id"] == 1] / 4.184, rtol=1e-12)
    assert not read_coarse(coarse(written(tmp_path / "none.npz")), "none-1").energies


def test_energies_of_some_files_only_are_refused(tmp_path):
    paths = [written(tmp_path / "a.npz", U=np.zeros(sum(FRAMES))), written(tmp_path / "b.npz")]
    files = [
        {"path": str(p), "temperature_K": 320.0, "replica": k, "units": "A,kcal/mol/A"}
        for k, p in enumerate(paths)
    ]
    with pytest.raises(InputError, match="only one of them has energies U of protein a-0"):
        read_coarse(Coarse.model_validate({"files": files}), "a-0")
    bad = written(tmp_path / "c.npz", U=np.zeros(3))
    with pytest.raises(InputError, match=r"U \(float64, shape \(3,\)\) must be a finite"):
        read_coarse(coarse(bad), "c-0")


def test_nm_and_kj(tmp_path):
    a = arrays()
    path = written(tmp_path / "set.npz", R=a["R"] / 10, F=a["F"] * np.float32(41.84))
    section = coarse(path, units="nm,kJ/mol/nm")
    _, coords, forces = frames(read_coarse(section, "set-1"))
    rows = np.flatnonzero(a["protein_id"] == 1)
    assert np.allclose(coords, a["R"][rows, :3], rtol=1e-6) and np.allclose(
        forces, a["F"][rows, :3], rtol=1e-6
    )


def test_without_protein_id_a_protein_is_a_chain(tmp_path):
    """Numbers in order of appearance; the names are those of the file."""
    a = arrays()
    later = {key: a[key][1:] for key in ("R", "F", "species", "mask")}
    section = coarse(written(tmp_path / "set.npz", **later, protein_id=None, resid=None))
    assert protein_names(section) == ("set-0", "set-1")
    domain = read_coarse(section, "set-0")
    assert tuple(domain.atoms.resname) == CHAINS[1] and domain.atoms.resid.tolist() == [1, 2, 3]
    assert np.array_equal(frames(domain)[1], a["R"][1:8:2, :3])


@pytest.mark.parametrize("key", ["species", "Z"])
def test_one_protein_without_mask(tmp_path, key):
    """Arrays of one row for all frames."""
    a = arrays()
    rows = np.flatnonzero(a["protein_id"] == 0)
    path = tmp_path / "one.npz"
    np.savez(
        path, R=a["R"][rows, :5], F=a["F"][rows, :5], aa_to_id=a["aa_to_id"], **{key: a["species"][0, :5]}
    )
    section = coarse(path)
    assert protein_names(section) == ("one",)
    domain = read_coarse(section, "one")
    assert tuple(domain.atoms.resname) == CHAINS[0] and len(frames(domain)[0]) == FRAMES[0]


@pytest.mark.parametrize("how", ["json", "arrays", "config"])
def test_where_the_names_come_from(tmp_path, how):
    as_arrays = {
        "aa_to_id": None,
        "aa_names": np.asarray(list(NAMES)),
        "aa_ids": np.asarray([*NAMES.values()]),
    }
    residues = {number: name for name, number in NAMES.items()} if how == "config" else None
    change = {"json": {}, "arrays": as_arrays, "config": {"aa_to_id": None}}[how]
    section = coarse(written(tmp_path / "set.npz", **change), residues=residues)
    assert tuple(read_coarse(section, "set-0").atoms.resname) == CHAINS[0]


PICKLED = np.asarray(NAMES, dtype=object)


def test_pickled_names_are_never_loaded(tmp_path, monkeypatch):
    """The peer's own files: refused with advice; read once the configuration says what the pickle would."""
    monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("a pickle was loaded"))
    path = written(tmp_path / "set.npz", aa_to_id=PICKLED, N_max=np.asarray([N_MAX] * 10))
    with pytest.raises(InputError, match=r"pickled Python dict.*data\.coarse\.residues.*json\.dumps"):
        protein_names(coarse(path))
    section = coarse(path, residues={number: name for name, number in NAMES.items()})
    assert tuple(read_coarse(section, "set-1").atoms.resname) == CHAINS[1]


def test_files_of_one_entry_are_runs(tmp_path):
    first, second = written(tmp_path / "a.npz"), written(tmp_path / "b.npz")
    files = [
        {"path": str(path), "temperature_K": t, "units": "A,kcal/mol/A"}
        for path, t in ((first, 450), (second, 320))
    ]
    domain = read_coarse(Coarse.model_validate({"files": files}), "a-0")
    assert [run.key for run in domain.runs] == ["320/0", "450/0"]
    same = [{**file, "temperature_K": 320} for file in files]
    with pytest.raises(InputError, match="are both 320 K replica 0"):
        read_coarse(Coarse.model_validate({"files": same}), "a-0")
    written(second, protein_id=1 - arrays()["protein_id"])
    with pytest.raises(InputError, match="protein a-0 is not the chain that it is in"):
        read_coarse(Coarse.model_validate({"files": files}), "a-0")


def changed(key, index, value):
    found = arrays()[key]
    found[index] = value
    return {key: found}


REFUSED = {
    "a hole in the mask": (changed("mask", (2, 1), 0), "mask of frame 3 has a bead after padding"),
    "an empty frame": (changed("mask", 2, 0), "mask of frame 3 has no bead"),
    "half a bead": (changed("mask", (0, 0), 0.5), "mask holds other numbers than 0 and 1"),
    "unknown number": (changed("species", (slice(None), 1), 9), "species 9 of protein 0 is no known residue"),
    "another chain": (
        changed("species", (2, 1), 0),
        "species or mask differ among the frames of protein_id 0",
    ),
    "shape": ({"species": np.zeros((3, 6), int)}, r"species has shape \(3, 6\), must be \(6,\) or \(11, 6\)"),
    "real numbers": ({"species": arrays()["mask"]}, "species has type float32, must be integers"),
    "no types": ({"species": None}, "neither species nor Z"),
    "N_max": ({"N_max": np.asarray([7])}, "N_max is 7, R has 6 rows a frame"),
    "number without frames": ({"protein_id": np.full(11, 1)}, "no frame of protein 0"),
    "numbers of frames": ({"protein_id": np.zeros(4, int)}, r"protein_id \(int64, \(4,\)\) must be integers"),
    "nothing known": ({"aa_to_id": None}, "does not say which residue each species number is"),
    "pickled mask": ({"mask": np.asarray([[1], [2, 3]], object)}, "mask: Python objects"),
    "no JSON": ({"aa_to_id": np.asarray("ALA 0")}, "aa_to_id is no JSON text"),
    "JSON list": ({"aa_to_id": np.asarray("[1]")}, "must be one JSON text such as"),
    "classes": (
        {"aa_to_id": np.asarray(json.dumps({**NAMES, "GLY": 0}))},
        "species 0 is both ALA and GLY: residue types are needed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_told(tmp_path, case):
    change, message = REFUSED[case]
    with pytest.raises(InputError, match=rf"set\.npz: .*{message}"):
        protein_names(coarse(written(tmp_path / "set.npz", **change)))


def test_configuration_and_file_must_agree(tmp_path):
    path = written(tmp_path / "set.npz")
    with pytest.raises(InputError, match="species 1 is GLY in the file and ALA in"):
        protein_names(coarse(path, residues={1: "ALA"}))
    with pytest.raises(InputError, match=r"holds 2 proteins, data\.coarse\.names has 1: x"):
        protein_names(coarse(path, names=["x"]))


def aggregated(section, held=3, **options):
    data = Data(coarse=[section])
    (planned, _) = plan.survey(plan.sources(data)[0], None)
    domain = plan.read(planned)
    return aggregate(domain, domain.runs, [held], data, ForceMap(**options))


@pytest.mark.parametrize("kind", ["basic", "optimal", "windowed", "pooled"])
def test_forces_are_taken_as_given(tmp_path, kind):
    """Whatever map is configured, even one that could not be cross-fitted on one run; invalid frames go."""
    a = arrays()
    a["F"][2, 1, 0] = np.inf
    section = coarse(written(tmp_path / "set.npz", F=a["F"]))
    result = aggregated(section, kind=kind)
    rows = np.flatnonzero(a["protein_id"] == 0)[[0, 2, 3, 4, 5, 6]]
    assert result.left_out == 1 and result.arrays["frame"].tolist() == [0, 2, 3, 4, 5, 6]
    assert np.array_equal(result.arrays["forces"], a["F"][rows, :5])
    assert np.array_equal(result.arrays["positions"], a["R"][rows, :5])
    assert result.arrays["validation"].tolist() == [False, False, True, True, True, True]
    assert result.held_out.n_frames == 6 and result.held_out.optimal == pytest.approx(
        np.mean(a["F"][rows, :5].astype(float) ** 2), rel=1e-6
    )
    assert result.mapping.topology.species.tolist() == [0, 11, 7, 8, 11]


@pytest.mark.parametrize(
    ("change", "units", "message"),
    [
        ({"R": arrays()["R"] / 10}, "A,kcal/mol/A", r"0\.378 Å.*nm instead of Å"),
        ({}, "nm,kJ/mol/nm", r"37\.8 Å.*Å stated as nm"),
        (
            {"F": arrays()["F"] * 41.84},
            "A,kcal/mol/A",
            "square of forces is .* in another unit",
        ),
    ],
)
def test_units_are_seen_in_the_values(tmp_path, change, units, message):
    with pytest.raises(InputError, match=message):
        aggregated(coarse(written(tmp_path / "set.npz", **change), units=units))
