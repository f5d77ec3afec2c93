"""simulate and audit on two small chains: springs hold one together, and nothing holds the other."""

import csv
import json
import shutil
from dataclasses import replace
from functools import cached_property

import mdtraj
import numpy as np
import pytest

from cgrefine.artifacts import stage_folder
from cgrefine.cli import audit, audit_ensemble, simulate, simulate_packs
from cgrefine.cli.audit_subject import Subject
from cgrefine.cli.console import Console
from cgrefine.cli.force_field import members_of
from cgrefine.cli.replicas import Outcome, read_outcomes, write_outcomes
from cgrefine.cli.simulate import assigned, chosen_domains
from cgrefine.cli.stages import run_stage
from cgrefine.config import parse
from cgrefine.config.running import Sim
from cgrefine.data.store import open_dataset, write_domain, write_index
from cgrefine.energy import BondedTerm, SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.fm.forcefield import ForceField
from cgrefine.residues import PRO
from cgrefine.sim.trajectory import TrajectoryWriter, read_frames
from cgrefine.system import topology_from_species
from tests.chains import ideal_helix
from tests.fm.prior_toy import BOND, TRUE
from tests.report.pages import valid_figures

N, FRAMES = 9, 6
SIM = {
    "temperature_K": 320, "timestep_fs": 5, "friction_per_ps": 5.0, "replicas": 5, "duration_ps": 2.0,
    "save_every_ps": 0.1,
    "criteria": {"size_limits": False, "second_neighbor_min_A": 0.01, "overlap_min_A": 0.01},
}  # fmt: skip
CONFIG = parse(
    {"sim": SIM, "audit": {"nve_duration_ps": 0.2, "nve_replicas": 2, "checks": ["conservation"]}}, "test"
)
CFG = Sim.model_validate(SIM)


def _spring(params, r, kind):
    return 0.5 * params["k"][kind] * (r - 3.8) ** 2


class Springs(ForceField):
    """A force field of one hand-made term: springs of no strength before proline."""

    @cached_property
    def model(self):
        return SumOfTerms((BondedTerm("bond", "bond", _spring),))


FORCE_FIELD = Springs({"network": None}, {"bond": {"k": np.array([100.0, 0.0], np.float32)}})


def _prepare(folder, at=0.0):
    entries = []
    for name, species in (("held", 0), ("loose", PRO)):
        x = np.repeat(ideal_helix(N)[None], FRAMES, axis=0)
        arrays = {"positions": x + at, "forces": x}
        arrays |= {"temperature_K": np.repeat([320.0, 400.0], FRAMES // 2), "frame": np.arange(FRAMES)}
        arrays |= {"replica": np.zeros(FRAMES), "validation": np.zeros(FRAMES, bool)}
        entries.append(write_domain(folder, name, topology_from_species([species] * N), arrays, {}))
    write_index(folder, entries, {})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run folder after prepare, simulate and audit."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        forcefield.save(root / "train" / "forcefield", FORCE_FIELD)
        patch.setattr(forcefield, "load", lambda folder: FORCE_FIELD)
        for name in ("prepare", "simulate", "audit"):
            with stage_folder(root, name, CONFIG, "0", {}) as stage:
                if name == "prepare":
                    _prepare(stage.path)
                else:
                    module = {"simulate": simulate, "audit": audit}[name]
                    module.build(stage, CONFIG, root, Console(quiet=True))
    return root


def metrics(root, stage):
    content = json.loads((root / stage / "metrics.json").read_text())
    return content["metrics"], content["checks"]


def good_frames(failed_at_ps: float | None) -> int:
    """The start, and one frame each 0.1 ps of the 2 ps before the failure."""
    return 21 if failed_at_ps is None else 1 + int(failed_at_ps / 0.1 - 1e-9)


def test_replicas_are_spread_and_written(root):
    """Five over two domains: 3 held replicas with all frames, 2 loose ones with those before they broke."""
    found = read_outcomes(root / "simulate" / "replicas.csv")
    assert [(o.domain, o.replica) for o in found] == [
        ("held", 0), ("held", 1), ("held", 2), ("loose", 0), ("loose", 1),
    ]  # fmt: skip
    assert [o.stable for o in found] == [True] * 3 + [False] * 2
    for o in found:
        pdb = root / "simulate" / "topology" / f"{o.domain}.pdb"
        x = read_frames(root / "simulate" / o.trajectory, pdb)
        assert len(x) == o.frames == good_frames(o.failed_at_ps)
        bonds = np.linalg.norm(np.diff(x, axis=1), axis=-1)
        shortest = 3.83 if o.domain == "held" else 2.95  # cis, before proline
        assert bonds.min() > shortest - 0.61 and bonds.max() < 3.83 + 0.61
        assert (o.status == ("OK" if o.stable else "BOND") and "bond" in o.reason) or o.stable
    assert mdtraj.load(str(pdb)).topology.residue(0).name == "PRO"


def test_metrics_of_the_run(root):
    found, _ = metrics(root, "simulate")
    assert found["replicas"] == 5 and found["stable_fraction"] == pytest.approx(0.6)
    assert found["duration_ps"]["value"] == pytest.approx(2.0)
    us = found["us_per_step"]["value"]
    assert found["us_per_step_per_replica"]["value"] == pytest.approx(us / 5)
    assert found["ns_per_day"]["value"] == pytest.approx(86400e6 / us * 5e-6)
    with (root / "simulate" / "log.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert sum(row["domain"] == "held" for row in rows) == 60
    energy, heat = valid_figures(root / "simulate" / "report.html")
    assert len(energy["data"]) == 4 and "set, 320 K" in str(heat["layout"]["shapes"])


def test_audit_counts_and_states(root):
    found, verdicts = metrics(root, "audit")
    content = json.loads((root / "audit" / "audit.json").read_text())
    assert content["verdict"].startswith("3 of 5 replicas stable over 2 ps (95 % interval")
    assert found["stable_fraction"] == pytest.approx(0.6)
    assert content["median_survival_ps"] == {"value": 2.0, "lower_bound": True}
    assert not verdicts["unstable_fraction"]["passed"]
    assert verdicts["unstable_fraction"]["value"] == pytest.approx(0.4)
    assert [r["status"] for r in content["replicas"]] == ["OK"] * 3 + ["BOND"] * 2
    for row in content["replicas"]:
        if row["status"] == "OK":
            assert row["failure"] is None
            continue
        told = row["failure"]
        assert told["value"] > told["limit"] and told["says"].startswith("bond of PRO")
        assert told["place"].count("PRO") == 2 and told["beads"][1] == told["beads"][0] + 1
        shot = mdtraj.load(str(root / told["snapshot"]))
        good = next(
            o.frames
            for o in read_outcomes(root / "simulate" / "replicas.csv")
            if (o.domain, o.replica) == (row["domain"], row["replica"])
        )
        assert len(shot) == min(5, good) + 1
        i, j = told["beads"]
        r = 10.0 * np.linalg.norm(shot.xyz[:, j] - shot.xyz[:, i], axis=1)
        assert r[-1] == pytest.approx(told["value"], abs=5e-3) and (np.abs(r[:-1] - 3.8) < 0.85 + 0.6).all()
    nve = content["constant_energy"]
    assert [(r["domain"], r["status"]) for r in nve["replicas"]] == [("held", "OK"), ("held", "OK")]
    assert abs(found["nve_drift_kcal_mol_ns"]["value"]) < 50.0
    assert "3 of 5 replicas stable" in (root / "audit" / "report.html").read_text()


def audited_at(folder, root, at):
    """audit.json of a run whose reference and trajectories were moved by `at`."""
    checks = ["conservation", "holes", "mirror", "unusual"]
    quick = {"nve_duration_ps": 0.2, "nve_replicas": 2, "hole_frames": 2, "checks": checks}
    config = parse({"sim": SIM, "audit": quick}, "test")
    shutil.copytree(root / "simulate", folder / "simulate")
    forcefield.save(folder / "train" / "forcefield", FORCE_FIELD)
    with stage_folder(folder, "prepare", config, "0", {}) as stage:
        _prepare(stage.path, at)
    for o in read_outcomes(folder / "simulate" / "replicas.csv"):
        path = folder / "simulate" / o.trajectory
        x = read_frames(path, folder / "simulate" / "topology" / f"{o.domain}.pdb") + at
        with TrajectoryWriter([path]) as writer:
            writer.write(0, x, np.arange(float(len(x))))
    with pytest.MonkeyPatch.context() as patch, stage_folder(folder, "audit", config, "0", {}) as stage:
        patch.setattr(forcefield, "load", lambda _: FORCE_FIELD)
        audit.build(stage, config, folder, Console(quiet=True))
    return json.loads((folder / "audit" / "audit.json").read_text())


def test_an_audit_far_from_the_origin_says_the_same(root, tmp_path):
    """Thousands of Å away, where float32 rounds to 2.4e-4 Å. The springs of no strength break at any length:
    where on its path such a hole begins is a matter of rounding, to one step of 0.1 Å."""
    moved = {"here": np.zeros(3), "far": np.array([7000.0, -5200.0, 3100.0])}
    here, far = (audited_at(tmp_path / name, root, at) for name, at in moved.items())
    for same in ("verdict", "passed", "decision", "survival", "replicas", "unusual"):
        assert here[same] == far[same]
    for name, check in here["checks"].items():
        assert (check["passed"], check["warning"]) == (
            far["checks"][name]["passed"],
            far["checks"][name]["warning"],
        )
    drift, other = (told["constant_energy"]["drift_kcal_mol_ns"] for told in (here, far))
    assert other["value"] == pytest.approx(drift["value"], abs=0.05 * drift["stderr"])
    holes, others = (told["holes"]["found"] for told in (here, far))
    assert [hole["place"] for hole in holes] == [hole["place"] for hole in others] and len(holes) == N - 1
    np.testing.assert_allclose([h["at_A"] for h in holes], [h["at_A"] for h in others], atol=0.101)


def test_outcomes_round_trip_and_damage(tmp_path):
    found = [
        Outcome("a", 0, "OK", "stable", None, 3, 310.5, "trajectories/a_r000.dcd"),
        Outcome("a", 1, "BOND", "a bond, stretched", 0.25, 1, None, "trajectories/a_r001.dcd"),
    ]
    path = tmp_path / "replicas.csv"
    write_outcomes(path, found)
    assert read_outcomes(path) == found
    path.write_text("domain,replica\na,0\n")
    with pytest.raises(InputError, match="not a table of replicas"):
        read_outcomes(path)


def test_fewer_replicas_than_domains_is_an_error(root):
    dataset = open_dataset(root / "prepare")
    few = CFG.model_copy(update={"replicas": 1})
    with pytest.raises(InputError, match="2 domains need one each"):
        assigned(chosen_domains(dataset, few), few)
    with pytest.raises(InputError, match="no domain 'x'"):
        chosen_domains(dataset, CFG.model_copy(update={"domains": ["x"]}))


def test_packs_are_bounded(root, monkeypatch):
    """Two replicas of nine beads in a pack of at most 20, though one pack is asked for."""
    monkeypatch.setattr(simulate_packs, "MAX_BEADS", 20)
    replicas = assigned(open_dataset(root / "prepare").domains, CFG)
    one = CFG.model_copy(update={"packs": 1})
    assert simulate_packs.n_packs(replicas, one) == 3
    assert [len(p) for p in simulate_packs.packs(replicas, 3)] == [2, 1, 2]
    monkeypatch.setattr(simulate_packs, "MAX_BEADS", 8)
    assert simulate_packs.n_packs(replicas, one) == 5


def test_members_that_disagree_on_simulated_frames_are_told(root, monkeypatch):
    """Two springs of 90 and 110 for the bond of held: F differs by 20 (r - 3.8) on each end of a bond."""
    k = {"0": 90.0, "1": 110.0}
    members = root / "train" / "members"
    for name in k:
        (members / name).mkdir(parents=True)
    known = {"rms": 0.5, "median": 0.1, "percentile_95": 1.0, "largest": 2.0}
    (root / "train" / "ensemble.json").write_text(json.dumps({"disagreement_kcal_mol_A": known}))
    monkeypatch.setattr(
        forcefield,
        "load",
        lambda path: Springs({}, {"bond": {"k": np.array([k[path.parent.name], 0.0], np.float32)}}),
    )
    found = [o for o in read_outcomes(root / "simulate" / "replicas.csv") if o.domain == "held"]
    data, folder = open_dataset(root / "prepare"), root / "simulate"
    subject = Subject(FORCE_FIELD, data, CFG, folder, found, 1.0, members)
    told = audit_ensemble.doubt(subject)
    assert told is not None and told.frames == 60
    apart = []
    for domain in audit_ensemble.simulated(subject):
        x = np.asarray(domain.positions, np.float64)
        bond = np.diff(x, axis=1)
        r = np.linalg.norm(bond, axis=-1, keepdims=True)
        pull = 20.0 * (r - 3.8) * bond / r
        force = np.zeros_like(x)
        force[:, :-1] += pull
        force[:, 1:] -= pull
        apart.append(force)
    # two members that differ by d have the variance d²/2
    expected = np.sqrt(np.mean(np.concatenate(apart) ** 2) / 2.0)
    assert told.simulated.rms == pytest.approx(expected, rel=1e-3)
    assert told.ratio == pytest.approx(expected / 0.5, rel=1e-3)
    shutil.rmtree(root / "train")
    assert audit_ensemble.doubt(replace(subject, members=None)) is None


def test_members_are_those_of_the_simulated_model(tmp_path):
    """Beside the force field of a train stage; those of root/train are none of another model's."""
    prior = forcefield.prior_only({"terms": [BOND]}, {"bond": TRUE["bond"]}, 320.0)
    for folder in ("run/train", "run/train/members/0", "other"):
        forcefield.save(tmp_path / folder / "forcefield", prior)
    members = tmp_path / "run" / "train" / "members"
    assert members_of(tmp_path / "run") == members == members_of(tmp_path / "run" / "train" / "forcefield")
    assert members_of(tmp_path / "other") is None and members_of(members / "0") is None


def test_another_model_runs_and_is_audited_without_a_train_folder(root, tmp_path):
    """Priors alone by --model: simulated, noted, audited; a model that changed since is refused."""
    shutil.copytree(root / "prepare", tmp_path / "prepare")
    prior = forcefield.prior_only({"terms": [BOND]}, {"bond": TRUE["bond"]}, 320.0)
    forcefield.save(tmp_path / "given" / "forcefield", prior)
    config = parse(
        {
            "sim": {**SIM, "domains": ["held"], "replicas": 2},
            "audit": {"nve_duration_ps": 0.2, "checks": ["conservation"]},
        },
        "test",
    )
    quiet, given = Console(quiet=True), tmp_path / "given"
    with pytest.raises(InputError, match=r"needs the folder .*train"):
        run_stage("simulate", config, tmp_path, quiet)
    assert run_stage("simulate", config, tmp_path, quiet, model=given)
    assert not run_stage("simulate", config, tmp_path, quiet, model=given)
    assert [o.domain for o in read_outcomes(tmp_path / "simulate" / "replicas.csv")] == ["held"] * 2
    assert run_stage("audit", config, tmp_path, quiet)
    forcefield.save(
        given / "forcefield", forcefield.prior_only({"terms": [BOND]}, {"bond": TRUE["bond"]}, 300.0)
    )
    with pytest.raises(InputError, match=r"is not the model that .*run `cgrefine simulate` again"):
        run_stage("audit", config, tmp_path, quiet, force=True)
    with pytest.raises(InputError, match="holds neither a force field"):
        run_stage("simulate", config, tmp_path, quiet, model=tmp_path)
