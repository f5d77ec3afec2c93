"""simulate with replica exchange: trajectories by temperature, walkers, statistics, resuming, refusals."""

import csv
import itertools
import json

import numpy as np
import pytest
import yaml

from cgrefine import checkpoint
from cgrefine.cli import simulate_packs
from cgrefine.cli.console import Console
from cgrefine.cli.force_field import refuse_exchange_of
from cgrefine.cli.observe import model_groups
from cgrefine.cli.replicas import Replica, read_outcomes
from cgrefine.cli.simulate_exchange import trajectories_at
from cgrefine.cli.stages import run_stage
from cgrefine.config import parse
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.sim import records
from cgrefine.sim.rollout import ended
from cgrefine.sim.trajectory import read_frames
from tests.cli.test_simulate_resume import disk_of, here, kept, run_folder
from tests.fm.prior_toy import T_K, prior_domain

BATH = [T_K, T_K + 15.0, T_K + 30.0]
SIM = {
    "temperature_K": T_K, "timestep_fs": 4, "friction_per_ps": 1.0, "replicas": 6, "duration_ps": 4.0,
    "save_every_ps": 0.1, "format": "h5", "exchange": {"temperatures_K": BATH, "every_ps": 0.05},
    "criteria": {"size_limits": False, "bond_deviation_A": 0.9, "second_neighbor_min_A": 0.01},
}  # fmt: skip
"""Two ladders of three replicas of twelve beads: 40 frames of five rounds of 5 steps each."""


def folder_at(path, **changes):
    folder = run_folder(path)
    (folder / "config.yaml").write_text(yaml.safe_dump({"sim": {**SIM, **changes}}))
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a whole run, and the records that its results were made of."""
    folder, seen = folder_at(tmp_path_factory.mktemp("exchange") / "run"), []
    blocks = records.blocks

    def watched(path, kind, frames, first=0):
        seen.append(np.concatenate(list(blocks(path, kind, frames, first))))
        return blocks(path, kind, frames, first)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "blocks", watched)
        here(folder)
    return folder, seen[0]


def table(folder, name):
    with (folder / "simulate" / name).open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_trajectories_are_those_of_a_temperature(done):
    """Frame by frame, place l·3 + r is the replica of ladder l that the log names, at its position in the
    records; and the log's bath and potential are those of that rung and replica."""
    folder, told = done
    assert len(told) == 40 and told["alive"].all()
    rows = table(folder, "temperatures.csv")
    assert [float(row["temperature_K"]) for row in rows] == BATH * 2
    log = table(folder, "log.csv")
    pdb = next((folder / "simulate" / "topology").iterdir())
    for place, row in enumerate(rows):
        frames = read_frames(folder / "simulate" / row["trajectory"], pdb)
        assert len(frames) == 41 == int(row["frames"])
        mine = [entry for entry in log if int(entry["replica"]) == place]
        walker = np.array([int(entry["walker"]) for entry in mine])
        assert (walker // 3 == place // 3).all() and len(set(walker)) == 3
        assert {float(entry["bath_K"]) for entry in mine} == {BATH[place % 3]}
        every = np.arange(40)
        assert (told["rung"][every, -1, walker] == place % 3).all()
        expected = told["positions"].reshape(40, 6, 12, 3)[every, walker]
        np.testing.assert_allclose(frames[1:], expected, atol=1e-4)
        potential = [float(entry["potential_kcal_mol"]) for entry in mine]
        np.testing.assert_allclose(potential, told["potential"][every, walker], rtol=1e-5)


def test_metrics_and_outcomes(done):
    """Acceptance counted here from the records; replicas have no trajectory of their own."""
    folder, told = done
    metrics = json.loads((folder / "simulate" / "metrics.json").read_text())["metrics"]
    rung = np.r_[np.tile(np.arange(3), 2)[None], told["rung"].reshape(200, 6)]
    for low in (0, 1):
        turns = range(low, 200, 2)
        accepted = sum(((rung[i] == low) & (rung[i + 1] == low + 1)).sum() for i in turns)
        value = metrics[f"exchange_acceptance_{BATH[low]:g}_{BATH[low + 1]:g}_K"]
        assert value == pytest.approx(accepted / (2 * len(turns))) and 0.2 < value < 1.0
    assert metrics["exchange_round_trips"] > 0
    assert metrics["exchange_round_trip_ps"]["value"] >= 4 * 0.02
    found = read_outcomes(folder / "simulate" / "replicas.csv")
    assert [o.frames for o in found] == [41] * 6
    assert all(o.trajectory == "" and o.temperature_K is None for o in found)
    kinetic = [float(row["kinetic_K"]) for row in table(folder, "temperatures.csv")]
    assert metrics["temperature_K"]["value"] == pytest.approx(np.mean(kinetic[::3]), rel=1e-4)
    assert "Replica exchange" in (folder / "simulate" / "report.html").read_text()


def test_observe_sees_one_temperature(done):
    folder, _ = done
    names = trajectories_at(folder / "simulate", T_K)
    assert names is not None and len(names) == 2
    name = table(folder, "temperatures.csv")[0]["domain"]
    assert len(model_groups(folder / "simulate", name, 0.1, T_K)) == 2
    with pytest.raises(InputError, match="has no trajectory at 1000 K; choose from"):
        trajectories_at(folder / "simulate", 1000.0)


@pytest.mark.slow
def test_goes_on_with_the_same_numbers(tmp_path, done):
    """A full disk ends it; the same command takes it up, and all files are those of an undisturbed run."""
    folder = folder_at(tmp_path / "full", format="xtc")
    whole = folder_at(tmp_path / "whole", format="xtc")
    here(whole)
    with disk_of(25_000), pytest.raises(InputError, match="cannot be written"):
        here(folder)
    left = folder / ".simulate.partial" / ".unfinished" / "pack000.npz"
    assert 0 < ended(checkpoint.load_params(left)).frames < 40
    here(folder)
    assert kept(folder) == kept(whole)


def test_a_replica_that_fails_ends_its_rung(tmp_path):
    """Bonds that break soon: a trajectory holds the frames at which its place was held by one alive, and the
    PDB file of a failure the last good frames of the replica itself."""
    criteria = {**SIM["criteria"], "bond_deviation_A": 0.25}
    folder = folder_at(tmp_path / "broken", criteria=criteria)
    here(folder)
    found = read_outcomes(folder / "simulate" / "replicas.csv")
    failed = [o for o in found if not o.stable]
    assert failed and sum(o.frames for o in found) == sum(
        int(row["frames"]) for row in table(folder, "temperatures.csv")
    )
    log = table(folder, "log.csv")
    for o in failed:
        assert o.failed_at_ps is not None
        mine = [float(entry["time_ps"]) for entry in log if int(entry["walker"]) == o.replica]
        assert len(mine) == o.frames - 1 and max(mine, default=0.0) < o.failed_at_ps
    assert len(list((folder / "simulate" / "failures").glob("*.pdb"))) == len(failed)


def test_what_does_not_fit_is_refused(tmp_path):
    for wrong, told in (
        ({"integrator": "nose_hoover"}, "needs the integrator langevin, found nose_hoover"),
        ({"temperature_K": 333.0}, "333.0 is not one of exchange.temperatures_K"),
        ({"replicas": 7}, "not whole ladders of 3 temperatures"),
        ({"exchange": {"temperatures_K": BATH[::-1]}}, "each must be above the one before"),
    ):
        with pytest.raises(InputError, match=told):
            parse({"sim": {**SIM, **wrong}}, "test")
    folder = run_folder(tmp_path / "conditioned")
    for stage in ("audit", "observe"):
        (folder / "simulate").mkdir(exist_ok=True)
        (folder / "simulate" / "provenance.json").write_text('{"fingerprint": "x"}')
        as_run = {"timestep_fs": {"value": 4.0}, "max_kinetic_kT": {"value": 20.0}}
        (folder / "simulate" / "metrics.json").write_text(json.dumps({"metrics": as_run}))
        config = parse({"sim": SIM, "observables": {"diffusion_fit_ps": [0.1, 1.0]}}, "test")
        with pytest.raises(InputError, match=r"sim\.exchange"):
            run_stage(stage, config, folder, Console(quiet=True))


def test_a_conditioned_network_is_refused(tmp_path, monkeypatch):
    folder = run_folder(tmp_path / "run")
    refuse_exchange_of(folder / "train")
    monkeypatch.setattr(forcefield, "conditioned_range", lambda force_field: (300.0, 400.0))
    with pytest.raises(InputError, match=r"conditioned on temperature \(300 to 400 K\)"):
        refuse_exchange_of(folder / "train")


def test_a_ladder_is_never_cut(monkeypatch):
    """Packs of at most 40 beads: four replicas of nine would fit, a second ladder of three does not."""
    monkeypatch.setattr(simulate_packs, "MAX_BEADS", 40)
    cfg = parse({"sim": {**SIM, "replicas": 9, "packs": 2}}, "test").sim
    assert cfg is not None
    domain = prior_domain(9, 2, 1)
    replicas = [Replica(domain, k, np.zeros((9, 3))) for k in range(9)]
    assert simulate_packs.n_packs(replicas, cfg) == 3
    for number, lengths in ((1, [9]), (2, [3, 6]), (3, [3, 3, 3])):
        cut = simulate_packs.packs(replicas, number, 3)
        assert [len(part) for part in cut] == lengths
        assert list(itertools.chain(*cut)) == replicas
