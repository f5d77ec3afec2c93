"""The pooled residue-type map: keys, normal equations, unseen proteins, files, and the true mean force."""

import json
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrefine.data import force_map as fm
from cgrefine.data import force_pooled as fp
from cgrefine.data import force_window as fw
from cgrefine.data.force_pooled import PooledState
from cgrefine.data.force_pooled_map import PooledMap
from cgrefine.errors import InputError
from tests.data.linear_anchors import KT, NOISE, STIFF, slope, toy, trajectory

RIDGE = 1e-6


def state_of(case, forces, k=1):
    band = fw.make_band(fw.residue_numbers(case.atoms, case.mapping), case.groups, case.mapping.ca, k)
    return fp.pooled_sums(band, fw.band_step(band, fw.band_init(band), forces, 1.0), case.atoms, case.mapping)


def fitted(*states, ridge=RIDGE, **options):
    return reduce(fp.pooled_add, states, fp.pooled_init()).fit(ridge, **options)


@pytest.fixture(scope="module")
def alone():
    """A chain of two types, and its forces."""
    case = toy("AGAAGGA")
    return case, trajectory(case, 120, 0)[0]


def test_keys_say_offset_class_atom_and_hydrogens():
    case = toy("APG")
    band = fw.make_band(case.atoms.residue, case.groups, case.mapping.ca, 1)
    keys = fp.bead_keys(band, case.atoms, case.mapping)
    assert keys[0] == (
        "+0 first N.1", "+0 first CB.2", "+0 first C.0", "+0 first O.0",
        "+1 Pro N.1", "+1 Pro CB.2", "+1 Pro C.0", "+1 Pro O.0",
    )  # fmt: skip
    assert [key.split()[:2] for key in keys[1][::4]] == [["-1", "other"], ["+0", "inner"], ["+1", "Gly"]]
    assert {key.split()[1] for key in keys[2] if key.startswith("+0")} == {"last"}


def test_coefficients_solve_the_normal_equations_of_all_beads_of_a_type(alone):
    """Directly: one regression a type, rows stacked over its beads, frames and components."""
    case, forces = alone
    pooled = fitted(state_of(case, forces), ridge=1e-3)
    by_group = fm.group_forces(forces, case.groups)
    band = fw.make_band(case.atoms.residue, case.groups, case.mapping.ca, 1)
    keys = fp.bead_keys(band, case.atoms, case.mapping)
    for name, species in (("ALA", 0), ("GLY", 7)):
        beads = np.flatnonzero(case.mapping.topology.species == species).tolist()
        column = {key: i for i, key in enumerate(sorted({k for b in beads for k in keys[b]}))}
        design = np.zeros((len(beads), 3 * len(forces), len(column)))
        target = np.zeros((len(beads), 3 * len(forces)))
        for i, bead in enumerate(beads):
            target[i] = by_group[:, band.group[band.own[bead]]].reshape(-1)
            for key, group in zip(keys[bead], band.group[band.window(bead)], strict=True):
                design[i, :, column[key]] += by_group[:, group].reshape(-1)
        design, target = design.reshape(-1, len(column)), target.reshape(-1)
        normal = design.T @ design
        x = -np.linalg.solve(normal + 1e-3 * np.diag(normal).mean() * np.eye(len(column)), design.T @ target)
        found = pooled.coefficients[name]
        assert list(found) == list(column)
        assert np.allclose(list(found.values()), x, rtol=0, atol=1e-4)


def test_instance_has_the_coefficients_of_its_keys_and_holds_the_conditions(alone):
    case, forces = alone
    pooled = fitted(state_of(case, forces))
    other = toy("GAAAG")
    local = fp.instantiate(pooled, other.atoms, other.mapping, other.groups)
    weights = fw.to_dense(local)
    assert fm.identity_residual(weights, other.mapping.ca) < 1e-10
    assert fm.constraint_residual(weights, other.groups) < 1e-10
    amide = np.flatnonzero(other.atoms.name == "N")
    assert weights[2, amide[2]] == pooled.coefficients["ALA"]["+0 inner N.1"]
    assert weights[2, amide[1]] == pooled.coefficients["ALA"]["-1 other N.1"]
    assert weights[3, amide[4]] == pooled.coefficients["ALA"]["+1 Gly N.1"]
    assert weights[2, amide[4]] == 0.0


def test_unknown_and_rare_keys_get_zero(alone):
    case, forces = alone
    state = state_of(case, forces)
    other = toy("WAW")
    local = fp.instantiate(fitted(state), other.atoms, other.mapping, other.groups)
    weights = fw.to_dense(local)
    assert np.array_equal(weights[0], fm.basic_map(other.groups, other.mapping.ca)[0])
    assert np.abs(weights[1]).sum() > 3.0
    assert 0.0 < fp.coverage(fitted(state), other.atoms, other.mapping, other.groups) < 0.5
    assert fp.coverage(fitted(state), case.atoms, case.mapping, case.groups) == 1.0
    # "+0 first" and "+0 last" are seen by one bead, 120 frames; inner ones by more
    often = fitted(state, min_frames=121)
    assert not any("first" in key or "last" in key for row in often.coefficients.values() for key in row)
    assert any("inner" in key for key in often.coefficients["ALA"])


def test_states_of_molecules_add(alone):
    """Twice the same data is the same map; other types join; the order of molecules is kept."""
    case, forces = alone
    state = state_of(case, forces)
    other = toy("VPV")
    more = state_of(other, trajectory(other, 120, 1)[0])
    once, twice = fitted(state), fitted(state, state)
    for name, row in once.coefficients.items():
        assert twice.coefficients[name] == pytest.approx(row, abs=1e-12)
    halves = fitted(*(state_of(case, part) for part in np.array_split(forces, 2)), min_frames=1)
    assert halves.coefficients["ALA"] == pytest.approx(once.coefficients["ALA"], abs=1e-4)
    joined = fitted(state, more)
    assert set(joined.coefficients) == {"ALA", "GLY", "PRO", "VAL"}
    assert joined.coefficients["ALA"] == pytest.approx(once.coefficients["ALA"], abs=1e-12)
    with pytest.raises(ValueError, match="windows ±1 and ±2 cannot be added"):
        fp.pooled_add(state, state_of(case, forces, k=2))
    with pytest.raises(ValueError, match="no protein"):
        fp.pooled_init().fit(RIDGE)


def test_pooled_map_recovers_the_mean_force_of_a_protein_it_never_saw():
    """Fitted on two chains of 40 residues with 60 frames each; slope within 3 standard errors of 1.

    The best coefficient is the anchor's share times the share of the spring in the group's mean square,
    kT k/(kT k + NOISE²). Error of each: 22 (mean force and noise) / (√(kT k) √N) with N = 3 · 60 · 40 is
    0.033 at most; three of them.
    """
    learnt = [toy(("AGAAAAGAGA" * 4)[i:]) for i in range(2)]
    states = [state_of(case, trajectory(case, 60, 10 + i)[0]) for i, case in enumerate(learnt)]
    pooled = fitted(*states, min_frames=50)
    inner = pooled.coefficients["ALA"]
    exact = {
        "+0 inner N.1": 0.6, "+0 inner CB.2": 1.0, "+0 inner C.0": 0.65, "+0 inner O.0": 0.55,
        "+1 other N.1": 0.4, "-1 other C.0": 0.35, "-1 other O.0": 0.45, "+1 other O.0": 0.0,
    }  # fmt: skip
    spring = {name: KT * k / (KT * k + NOISE**2) for name, k in STIFF.items()}
    best = {key: share * spring[key.split()[2][:-2]] for key, share in exact.items()}
    assert {key: inner[key] for key in exact} == pytest.approx(best, abs=0.1)
    fresh = toy("AAGAAGAAAGAAGAGAAAGA")
    forces, mean = trajectory(fresh, 300, 7)
    local = fp.instantiate(pooled, fresh.atoms, fresh.mapping, fresh.groups)
    mapped = fw.apply_local(local, forces)
    kept, error = slope(mapped, mean)
    assert error < 0.01 and abs(kept - 1.0) < 3 * error
    basic = fm.apply(fm.basic_map(fresh.groups, fresh.mapping.ca), forces)
    assert fm.mean_square(mapped - mean) < 0.2 * fm.mean_square(basic - mean)


def test_state_and_map_are_read_back_exactly(alone, tmp_path):
    case, forces = alone
    state = state_of(case, forces)
    state.save(tmp_path / "state.npz")
    back = PooledState.load(tmp_path / "state.npz")
    assert back.k == state.k and list(back.types) == list(state.types)
    for name, normal in state.types.items():
        assert back.types[name].keys == normal.keys and back.types[name].weight == normal.weight
        assert np.array_equal(back.types[name].gram, normal.gram)
        assert np.array_equal(back.types[name].frames, normal.frames)
    again = tmp_path / "again.npz"
    back.save(again)
    assert again.read_bytes() == (tmp_path / "state.npz").read_bytes()
    pooled = fitted(state)
    pooled.save(tmp_path / "map.json")
    found = PooledMap.load(tmp_path / "map.json")
    assert found == pooled and found.digest == pooled.digest
    assert fitted(state, ridge=1e-2).digest != pooled.digest
    assert not list(tmp_path.glob("*.partial"))


def rewritten(pooled, path, **changes):
    """A map file with changed content and a checksum that fits it."""
    from cgrefine.data import force_pooled_map

    content = {**force_pooled_map._content(pooled), **changes}
    path.write_text(json.dumps({**content, "sha256": force_pooled_map._digest(content)}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, 1 can be read"),
        ({"kind": "other"}, "is not a pooled force map"),
        ({"window": 21}, "window 21 must be 0 to 20"),
        ({"window": True}, "window True must be"),
        ({"ridge": -1.0}, r"ridge -1\.0 must be 0 or above"),
        ({"coefficients": [1]}, "must be a table"),
        ({"coefficients": {"XYZ": {}}}, "'XYZ': must be a table of one of the 20"),
        ({"coefficients": {"ALA": {"+2 other N.1": 1.0}}}, r"within ±1 residues"),
        ({"coefficients": {"ALA": {"N": 1.0}}}, "key 'N' is not"),
        ({"coefficients": {"ALA": {"+1 other N.1": "x"}}}, "must be a finite number"),
        ({"coefficients": {"ALA": {"+1 other N.1": float("nan")}}}, "must be a finite number"),
    ],
)
def test_a_map_file_with_wrong_content_is_refused(alone, tmp_path, changes, message):
    path = rewritten(fitted(state_of(*alone)), tmp_path / "map.json", **changes)
    with pytest.raises(InputError, match=message):
        PooledMap.load(path)


@pytest.fixture(scope="module")
def files(alone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pooled")
    state = state_of(*alone)
    state.save(folder / "state.npz")
    fitted(state).save(folder / "map.json")
    return folder


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(["state.npz", "map.json"]), st.sampled_from(["cut", "flip"]))
def test_damage_is_refused_or_harmless(files, data, name, kind):
    """Any cut, any flipped bit: InputError, or the same values (bits of zip's dates, white space)."""
    content = bytearray((files / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        content = content[:place]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    damaged = files / f"damaged-{name}"
    damaged.write_bytes(bytes(content))
    try:
        if name == "map.json":
            assert PooledMap.load(damaged) == PooledMap.load(files / name)
        else:
            found, exact = PooledState.load(damaged), PooledState.load(files / name)
            assert found.k == exact.k and list(found.types) == list(exact.types)
            for key, normal in exact.types.items():
                assert all(np.array_equal(a, b) for a, b in zip(found.types[key], normal, strict=True))
    except InputError:
        pass


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        PooledMap.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        PooledState.load(tmp_path / "none.npz")
