"""`audit --model`: an ideal chain passes, and one with a spring that breaks is found out, dated and named."""

import json

import jax
import mdtraj
import numpy as np
import pytest

from cgrefine import units
from cgrefine.cli import main
from cgrefine.cli.replicas import read_outcomes
from cgrefine.cli.simulate import assigned
from cgrefine.cli.simulate_packs import packed
from cgrefine.config.running import Criteria, Sim
from cgrefine.data.store import open_dataset, write_domain, write_index
from cgrefine.errors import GateError, InputError
from cgrefine.fm import forcefield
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.rollout import rollout, settings
from cgrefine.sim.trajectory import read_frames
from tests import planted

pytestmark = pytest.mark.stages

N, KELVIN, BOND, BREAKS_AT = 7, 300.0, 3, 4.3
STEP_FS, SAVED_PS, LENGTH_PS, REPLICAS = 5.0, 0.1, 6.0, 6
SIM = {
    "temperature_K": KELVIN, "timestep_fs": STEP_FS, "friction_per_ps": 1.0, "replicas": REPLICAS,
    "duration_ps": LENGTH_PS, "save_every_ps": SAVED_PS,
}  # fmt: skip
QUICK = {
    "nve_duration_ps": 0.5, "scaling_duration_ps": 0.25, "scan_duration_ps": 0.5, "hole_frames": 2,
    "calibrate": "false",
    "timestep_factors": "[0.5, 1.0]", "scaling_factors": "[1.0, 2.0]", "temperature_factors": "[1.0, 1.25]",
}  # fmt: skip
SET = [
    word
    for section, values in (("sim", SIM), ("audit", QUICK))
    for key, value in values.items()
    for word in ("--set", f"{section}.{key}={value}")
]
FEW = ["--set", "audit.checks=[conservation, holes, mirror, unusual]"]
SPRINGS = {
    "ideal": planted.force_field(N, {}),
    "planted": planted.force_field(N, {BOND: BREAKS_AT}, soft=10.0),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set sampled from the ideal chain, and a folder for each of two force fields."""
    root = tmp_path_factory.mktemp("audit")
    data = root / "data"
    data.mkdir()
    x = planted.frames(N, 60, units.thermal_energy(KELVIN), 1).astype(np.float32)
    arrays = {"positions": x, "forces": np.zeros_like(x), "temperature_K": np.full(60, KELVIN)}
    arrays |= {"replica": np.zeros(60), "frame": np.arange(60), "validation": np.zeros(60, bool)}
    write_index(data, [write_domain(data, "chain", planted.topology(N), arrays, {})], {})
    for name in SPRINGS:
        forcefield.save(root / name, forcefield.ForceField({"temperature_K": KELVIN}, {"name": np.zeros(1)}))
        (root / name / "params.npz").write_bytes(name.encode())
    return root


def command(place, patch, names, *more):
    """Run the command line in this process."""
    patch.setattr(forcefield, "load", lambda folder: SPRINGS[folder.name])
    models = [word for name in names for word in ("--model", str(place / name))]
    words = ["audit", *models, "--reference", str(place / "data"), *SET, "--quiet", *more]
    main.app(words, standalone_mode=False)


@pytest.fixture(scope="module")
def both(place):
    """OUT of an audit of the ideal and the planted force field."""
    with pytest.MonkeyPatch.context() as patch:
        command(place, patch, list(SPRINGS), "--out", str(place / "both"), *FEW)
    return place / "both"


@pytest.fixture(scope="module")
def found(both, place):
    models = json.loads((both / "audit" / "audit.json").read_text())["models"]
    return {name: models[str(place / name)] for name in SPRINGS}


def test_the_ideal_model_passes(found):
    ideal = found["ideal"]
    assert ideal["passed"] and ideal["stable_fraction"]["value"] == 1.0
    assert ideal["decision"] == "not decided"  # six replicas show no more than that
    assert all(check["passed"] is not False for check in ideal["checks"].values())
    assert not any(check["warning"] for check in ideal["checks"].values())
    assert ideal["holes"]["found"] == [] and ideal["holes"]["tried"] > 40
    assert ideal["checks"]["mirror_gap"]["says"].startswith("energies of mirror images are the same")


def test_the_planted_hole_is_found_and_the_bond_named(found):
    broken = found["planted"]
    assert not broken["passed"] and not broken["checks"]["unstable_fraction"]["passed"]
    assert broken["decision"] == "unstable"
    (hole,) = broken["holes"]["found"]
    assert (hole["kind"], hole["beads"], hole["place"]) == ("bond", [BOND, BOND + 1], "ASP4-CYS5")
    assert hole["at_A"] == pytest.approx(BREAKS_AT, abs=0.1)
    failures = [r for r in broken["replicas"] if r["status"] != "OK"]
    assert len(failures) >= 4
    for row in failures:
        told = row["failure"]
        assert row["status"] == "BOND" and told["beads"] == [BOND, BOND + 1]
        assert told["place"] == "ASP4-CYS5" and 0.0 < told["value"] - told["limit"] < 0.1
        assert told["says"].startswith("bond of ASP (bead 3) and CYS (bead 4) is 4.")
        assert told["snapshot"] == f"model1/failures/chain_r{row['replica']:03d}.pdb"
    assert broken["criteria"]["BOND"]["failures"] == len(failures)
    warned = {name for name, check in broken["checks"].items() if check["warning"]}
    assert warned == {"unusual_bond"} and broken["checks"]["unusual_bond"]["passed"] is None


def test_a_failure_is_dated_within_one_saved_frame(place, both):
    """The truth: the same dynamics without criteria, each step looked at, first time past the limit."""
    sim = Sim.model_validate(SIM)
    replicas = assigned(open_dataset(place / "data").domains, sim)
    free = Criteria(
        bond_deviation_A=1e3, second_neighbor_min_A=1e-3, overlap_min_A=1e-3, max_force_kcal_mol_A=1e6,
        max_kinetic_kT=1e6, size_limits=False,
    )  # fmt: skip
    system, limits = packed(replicas, sim.model_copy(update={"criteria": free}))
    dt, springs = units.from_fs(STEP_FS), SPRINGS["planted"]
    _, used = packed(replicas, sim)
    chunks = rollout(
        springs.model, springs.params, system, np.concatenate([r.start for r in replicas]).astype(np.float32),
        np.full(REPLICAS, units.thermal_energy(KELVIN), np.float32),
        jax.random.fold_in(jax.random.key(0), 0), Langevin(dt, units.from_per_ps(1.0)),
        settings(units.from_fs(1000.0 * LENGTH_PS), dt, dt, planted.REACH_A, max_chunk_frames=400), limits,
    )  # fmt: skip
    x = np.concatenate([c.positions for c in chunks]).reshape(-1, REPLICAS, N, 3)
    r = np.linalg.norm(np.diff(x, axis=2), axis=-1)[:, :, BOND]
    past = np.abs(r - used.r0.reshape(REPLICAS, N - 1)[:, BOND]) > 0.6
    truth = np.where(past.any(axis=0), (1 + past.argmax(axis=0)) * STEP_FS / 1000.0, np.inf)
    folder = both / "audit" / "model1"
    outcomes = read_outcomes(folder / "replicas.csv")
    dated = np.array([np.inf if o.failed_at_ps is None else o.failed_at_ps for o in outcomes])
    assert np.isfinite(dated).sum() >= 4
    np.testing.assert_array_equal(np.isfinite(dated), np.isfinite(truth))
    some = np.isfinite(dated)
    assert np.abs(dated[some] - truth[some]).max() <= SAVED_PS
    for o, at in zip(outcomes, dated, strict=True):
        frames = read_frames(folder / o.trajectory, folder / "topology" / "chain.pdb")
        assert len(frames) == 1 + int(min(at, LENGTH_PS + 1e-6) / SAVED_PS - 1e-9)


def test_snapshots_end_with_the_state_that_failed(both):
    folder = both / "audit" / "model1"
    failed = [o for o in read_outcomes(folder / "replicas.csv") if not o.stable]
    assert len(list((folder / "failures").glob("*.pdb"))) == len(failed)
    assert not (both / "audit" / "model0" / "failures").exists()
    for o in failed:
        shot = mdtraj.load(str(folder / "failures" / f"chain_r{o.replica:03d}.pdb"))
        assert len(shot) == min(5, o.frames) + 1
        bond = 10 * np.linalg.norm(shot.xyz[-1, BOND + 1] - shot.xyz[-1, BOND])
        assert 4.35 < bond < 4.5
        saved = read_frames(folder / o.trajectory, folder / "topology" / "chain.pdb")
        np.testing.assert_allclose(10 * shot.xyz[:-1], saved[-5:], atol=2e-3)


def test_models_are_compared(both, place):
    told = json.loads((both / "audit" / "audit.json").read_text())["comparison"]
    tests = told["against_first"][str(place / "planted")]
    assert told["first"] == str(place / "ideal") and told["log_rank"] == tests["log_rank"]
    assert tests["log_rank"]["p"] < 0.05
    assert tests["mcnemar"]["statistic"] == 0 and tests["mcnemar"]["count"] == tests["paired_times"]["count"]
    page = (both / "audit" / "report.html").read_text()
    assert "McNemar p" in page and "ASP4-CYS5" in page


@pytest.mark.slow
def test_the_ideal_model_passes_every_check(place):
    with pytest.MonkeyPatch.context() as patch:
        command(place, patch, ["ideal"], "--out", str(place / "one"), "--strict")
    ideal = json.loads((place / "one" / "audit" / "audit.json").read_text())
    assert ideal["passed"] and all(check["passed"] is not False for check in ideal["checks"].values())
    assert ideal["checks"]["scaling_order"]["value"] == pytest.approx(2.0, abs=0.2)
    kelvin = ideal["configurational"]
    assert abs(kelvin["value"] - KELVIN) < 5 * kelvin["stderr"] < 0.5 * KELVIN
    assert [t["stable"] for t in ideal["timesteps"]["timesteps"]] == [4, 4]
    assert len([name for name in ideal["checks"] if name.startswith("observable_")]) > 8
    assert not any(check["warning"] for check in ideal["checks"].values())
    assert [t["thermostat_K"] for t in ideal["temperatures"]["temperatures"]] == [300.0, 375.0]


def test_strict_and_repeated_runs(place, both):
    with pytest.MonkeyPatch.context() as patch:
        before = (both / "audit" / "audit.json").stat().st_mtime_ns
        with pytest.raises(GateError, match=r"model1\.unstable_fraction"):
            command(place, patch, list(SPRINGS), "--out", str(both), "--strict", *FEW)
        assert (both / "audit" / "audit.json").stat().st_mtime_ns == before


def test_wrong_options_are_told(place, tmp_path):
    out = ["--out", str(tmp_path)]
    data = str(place / "data")
    cases = {
        "nothing to audit": [],
        "which is not given": ["--reference", data],
        "give --reference": ["--model", str(place / "ideal")],
        "names a force field twice": [
            "--model", str(place / "ideal"), "--model", str(place / "ideal"), "--reference", data,
        ],
        "holds neither a force field": ["--model", str(tmp_path), "--reference", data],
        "holds no data set": ["--model", str(place / "ideal"), "--reference", str(tmp_path), *SET],
        "sim.replicas: required": ["--model", str(place / "ideal"), "--reference", data],
    }  # fmt: skip
    for message, words in cases.items():
        with pytest.raises(InputError, match=message):
            main.app(["audit", *words, *out, "--quiet"], standalone_mode=False)
