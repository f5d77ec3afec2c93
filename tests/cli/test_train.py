"""The train stage on chains of known priors: priors kept, trained along, and left out."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from cgrefine.artifacts import Record, Stage
from cgrefine.cli import train, train_member
from cgrefine.cli.console import Console
from cgrefine.config.load import parse
from cgrefine.data.store import write_domain, write_index
from cgrefine.errors import InputError, Interrupted
from cgrefine.fm import forcefield
from tests.fm.prior_toy import FACTS, T_K, WRONG, prior_domain
from tests.fm.toy import CUTOFF, RADIAL

pytestmark = pytest.mark.stages

MODEL = {"name": "allegro", "cutoff_A": CUTOFF}
TRAIN = {"epochs": 2, "batch_beads": 60, "learning_rate": 0.05, "decoy_fraction": 0.0}
PRIORS = {name: WRONG[name] for name in ("bond", "repulsion")}


@pytest.fixture(autouse=True, scope="module")
def _small_network():
    """Two Gaussians of the distance for whatever network is asked for: compiled in a second."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (train_member, forcefield):
            patch.setattr(module, "network_term", lambda facts: RADIAL)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, entries = tmp_path_factory.mktemp("run"), []
    for seed in (1, 2):
        domain = prior_domain(12, 30, seed)
        arrays = {name: np.asarray([getattr(domain, name)[k] for k in range(30)]) for name in
                  ("positions", "forces", "temperature_K", "replica", "frame")}  # fmt: skip
        arrays["validation"] = np.arange(30) % 3 == 0
        entries.append(write_domain(root / "prepare", domain.name, domain.topology, arrays, {}))
    write_index(root / "prepare", entries, {})
    forcefield.save(root / "priors" / "forcefield", forcefield.prior_only(FACTS, PRIORS, T_K))
    return root


def ran(root: Path, tmp_path: Path, model: dict, settings: dict) -> Stage:
    stage = Stage("train", tmp_path, Record(), fingerprint="this")
    config = parse({"model": {**MODEL, **model}, "train": {**TRAIN, **settings}}, "test")
    train.build(stage, config, root, Console(quiet=True))
    return stage


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed training of the network alone, on top of fixed priors."""
    path = tmp_path_factory.mktemp("whole")
    ran(root, path, {}, {})
    return path


def test_priors_trained_along_are_saved_and_reported(root: Path, tmp_path: Path):
    stage = ran(root, tmp_path, {}, {"train_priors": True, "prior_penalty": 1e-4})
    saved = forcefield.load(tmp_path / "forcefield")
    assert [term.name for term in saved.model.terms] == ["bond", "repulsion", "network"]
    assert saved.facts["priors"] == FACTS
    moved = np.abs(saved.params["bond"]["k"] / PRIORS["bond"]["k"] - 1.0)
    assert 1e-3 < moved.max() < 0.5
    assert set(saved.params["bond"]) == {"k", "x0"} and saved.params["bond"]["k"].shape == (401,)
    assert stage.record.metrics["prior_shift_rms"] > 0.0
    page = (tmp_path / "report.html").read_text()
    assert "Trained along with the network" in page and "bond.x0" in page


def test_the_network_alone_has_no_priors(root: Path, tmp_path: Path):
    stage = ran(root, tmp_path, {"priors": False}, {})
    saved = forcefield.load(tmp_path / "forcefield")
    assert saved.facts["priors"] == {"terms": []} and set(saved.params) == {"network"}
    metrics = stage.record.metrics
    assert metrics["val_force_mse_prior"] == metrics["val_force_mse_zero"]
    assert "the network alone" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ({"name": "none", "priors": False}, {}, "no energy at all"),
        ({"name": "none"}, {"train_priors": True}, "train.train_priors needs a network"),
        ({"priors": False}, {"train_priors": True}, "train.train_priors needs a network"),
    ],
)
def test_what_cannot_be_trained_is_refused(root, tmp_path, model, settings, message):
    with pytest.raises(InputError, match=message):
        ran(root, tmp_path, model, settings)


def test_priors_stay_as_they_were_fitted(whole: Path):
    """The default: the very numbers of the priors stage."""
    saved = forcefield.load(whole / "forcefield")
    for term, leaves in PRIORS.items():
        for name, value in leaves.items():
            assert np.array_equal(saved.params[term][name], value)
    assert "As the stage" in (whole / "report.html").read_text()


def numbers(path: Path) -> list[dict[str, str]]:
    """The rows of a log without the times."""
    times = ("seconds_per_update", "waiting_fraction")
    with path.open(newline="") as handle:
        return [{k: v for k, v in row.items() if k not in times} for row in csv.DictReader(handle)]


def test_a_signal_ends_training_and_the_same_command_goes_on(
    root: Path, whole: Path, tmp_path: Path, monkeypatch
):
    """USR1 during the third update: a checkpoint, and from there the numbers of an undisturbed run."""
    broken, fit, seen = tmp_path / "broken", train_member.fit, []

    def signalled(*arguments, **options):
        for event in fit(*arguments, **options):
            seen.append(event)
            if len(seen) == 3:
                os.kill(os.getpid(), signal.SIGUSR1)
            yield event

    monkeypatch.setattr(train_member, "fit", signalled)
    with pytest.raises(Interrupted, match="ended by a signal in epoch 1") as error:
        ran(root, broken, {}, {})
    assert error.value.number == signal.SIGUSR1 and not (broken / "forcefield").exists()
    assert seen[-1].stopped and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    monkeypatch.setattr(train_member, "fit", fit)
    ran(root, broken, {}, {})
    assert numbers(broken / "log.csv") == numbers(whole / "log.csv")
    found, expected = (forcefield.load(folder / "forcefield").params for folder in (broken, whole))
    assert np.array_equal(found["network"]["height"], expected["network"]["height"])


def test_an_ensemble_has_its_best_member_in_front(root: Path, tmp_path: Path):
    """Two seeds: the one of lowest error is what goes on; what they disagree about is told."""
    stage = ran(root, tmp_path, {}, {"epochs": 1, "ensemble": {"members": 2, "save": "all"}, "seed": 7})
    told = json.loads((tmp_path / "ensemble.json").read_text())
    assert told["seeds"] == [7, 8] and told["val_force_mse"][1] < told["val_force_mse"][0]
    best = 8
    assert told["best"] == best
    members = {s: forcefield.load(tmp_path / "members" / str(s) / "forcefield") for s in (7, 8)}
    front = forcefield.load(tmp_path / "forcefield").params["network"]["height"]
    assert np.array_equal(front, members[best].params["network"]["height"])
    assert told["disagreement_kcal_mol_A"]["rms"] > 0.0
    metrics = stage.record.metrics
    assert metrics["ensemble_members"] == 2
    assert metrics["val_force_mse"]["value"] == min(told["val_force_mse"])
    assert metrics["ensemble_val_force_mse"]["stderr"] == pytest.approx(
        np.std(told["val_force_mse"], ddof=1) / np.sqrt(2)
    )


def test_the_log_shows_rmse_beside_mse(whole: Path):
    for row in numbers(whole / "log.csv"):
        mse, zero = float(row["val_force_mse"]), float(row["val_force_mse_zero"])
        assert float(row["val_force_rmse"]) == pytest.approx(np.sqrt(mse), rel=1e-5)
        assert float(row["explained_variance"]) == pytest.approx(1 - mse / zero, abs=1e-5)
    assert "RMSE" in (whole / "report.html").read_text()
