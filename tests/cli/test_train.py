"""The train stage on chains of known priors: priors kept, trained along, and left out."""

from pathlib import Path

import numpy as np
import pytest

from cgrefine.artifacts import Record, Stage
from cgrefine.cli import train
from cgrefine.cli.console import Console
from cgrefine.config.load import parse
from cgrefine.data.store import write_domain, write_index
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from tests.fm.prior_toy import FACTS, T_K, WRONG, prior_domain
from tests.fm.toy import CUTOFF, RADIAL

MODEL = {"name": "allegro", "cutoff_A": CUTOFF}
TRAIN = {"epochs": 2, "batch_beads": 60, "learning_rate": 0.05, "decoy_fraction": 0.0}
PRIORS = {name: WRONG[name] for name in ("bond", "repulsion")}


@pytest.fixture(autouse=True)
def _small_network(monkeypatch):
    """Two Gaussians of the distance for whatever network is asked for: compiled in a second."""
    for module in (train, forcefield):
        monkeypatch.setattr(module, "network_term", lambda facts: RADIAL)


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
    stage = Stage("train", tmp_path, Record())
    config = parse({"model": {**MODEL, **model}, "train": {**TRAIN, **settings}}, "test")
    train.build(stage, config, root, Console(quiet=True))
    return stage


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


def test_priors_stay_as_they_were_fitted(root: Path, tmp_path: Path):
    """The default: the very numbers of the priors stage."""
    ran(root, tmp_path, {}, {"epochs": 1})
    saved = forcefield.load(tmp_path / "forcefield")
    for term, leaves in PRIORS.items():
        for name, value in leaves.items():
            assert np.array_equal(saved.params[term][name], value)
    assert "As the stage" in (tmp_path / "report.html").read_text()
