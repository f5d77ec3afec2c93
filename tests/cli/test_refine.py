"""The refine stage on chains whose beads overlap: what it leaves, what it says, and what is done with it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from cgrefine.artifacts import SCRATCH, read_json
from cgrefine.cli import main, refine
from cgrefine.cli.force_field import identity
from cgrefine.cli.replicas import read_outcomes
from cgrefine.data.store import open_dataset
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from tests import browser
from tests.cli import refine_toy

pytestmark = pytest.mark.stages

MODELS = ("pre", "post", "control")


def content(folder: Path) -> dict:
    return read_json(folder / "refine" / "final_metrics.json")


def log(folder: Path) -> list[dict[str, str]]:
    import csv

    with (folder / "refine" / "log.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def sigma(folder: Path) -> np.ndarray:
    return forcefield.load(folder / "forcefield").params["repulsion"]["sigma"]


def test_the_folder_holds_what_the_stage_says(refined):
    folder = refined / "refine"
    told = (refine.__doc__ or "").split()
    for name in (
        "forcefield/", "pre/", "control/", "evaluation/", "tensorboard/", "log.csv", "final_metrics.json",
        "report.html",
    ):  # fmt: skip
        assert (folder / name).exists() and any(name in word for word in told), name
    assert not (folder / SCRATCH).exists()
    for model in MODELS:
        assert len(read_outcomes(folder / "evaluation" / model / "replicas.csv")) == 8
    epochs = [int(row["epoch"]) for row in log(refined) if row["phase"] == "learn"]
    checkpoints = {path.name for path in (folder / "checkpoints").iterdir()}
    assert checkpoints == {f"cycle1_epoch{epoch}" for epoch in epochs} and len(epochs) >= 3


def test_repulsion_grows_where_beads_meet_and_nowhere_else(refined):
    """Of the kinds of pairs that the chain has; the start and the bonds are left alone."""
    species = open_dataset(refined / "prepare").domains[0].topology.species
    there = np.zeros((20, 20), bool)
    for i, j in zip(*np.triu_indices(len(species), 3), strict=True):
        there[species[i], species[j]] = there[species[j], species[i]] = True
    begin, end = sigma(refined / "train"), sigma(refined / "refine")
    moved = (end - begin.astype(np.float32)) != 0.0
    assert not moved[~there & ~there.T].any() and moved[there].any()
    assert np.mean((end - begin)[moved]) > 0.1
    assert np.array_equal(sigma(refined / "refine" / "pre"), begin)
    assert not np.array_equal(sigma(refined / "refine" / "control"), end)
    bonds = [
        forcefield.load(refined / name / "forcefield").params["bond"]["k"] for name in ("train", "refine")
    ]
    assert np.array_equal(bonds[0].astype(np.float32), bonds[1])


def test_it_fails_less_than_before_on_starts_that_it_has_not_seen(refined):
    found = content(refined)["models"]
    assert list(found) == list(MODELS)
    assert sum(found["post"]["times_ps"]) > 1.2 * sum(found["pre"]["times_ps"])
    assert found["pre"]["stable"] < 4 and set(found["pre"]["failures"]) == {"OVERLAP"}


def test_final_metrics_are_those_of_the_evaluation(refined):
    told = content(refined)
    assert told["mode"] == "refine" and told["duration_ps"] == 4.0
    for name, found in told["models"].items():
        outcomes = read_outcomes(refined / "refine" / "evaluation" / name / "replicas.csv")
        assert found["stable"] == sum(o.stable for o in outcomes) and found["replicas"] == len(outcomes)
        assert sum(found["failures"].values()) == found["replicas"] - found["stable"]
        low, high = found["stable_fraction_interval"]
        assert low <= found["stable"] / found["replicas"] <= high
        assert found["force_mse"]["value"] > 0.0 and "P(r)" in found["observables"]
    assert told["models"]["pre"]["force_mse_difference"] is None
    difference = told["models"]["post"]["force_mse_difference"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert set(told["comparison"]["against_first"]) == {"post", "control"}


def test_metrics_and_checks_say_the_same(refined):
    summary, told = read_json(refined / "refine" / "metrics.json"), content(refined)["models"]
    metrics, checks = summary["metrics"], summary["checks"]
    for name in MODELS:
        assert metrics[f"{name}.stable_fraction"] == told[name]["stable"] / 8
        assert metrics[f"{name}.force_mse"]["value"] == told[name]["force_mse"]["value"]
    growth = told["post"]["force_mse"]["value"] / told["pre"]["force_mse"]["value"] - 1.0
    assert metrics["force_mse_growth"] == pytest.approx(growth)
    assert checks["force_mse_growth"] == {
        "passed": growth <= 0.05,
        "value": pytest.approx(growth),
        "limit": 0.05,
    }
    assert checks["not_less_stable"]["passed"]
    median = {name: told[name]["median_survival_ps"]["value"] for name in MODELS}
    assert metrics["survival_gain"] == pytest.approx(median["post"] / median["pre"])


def test_checkpoints_are_force_fields_and_the_last_is_the_result(refined):
    folder = refined / "refine"
    epochs = sorted((folder / "checkpoints").iterdir())
    fields = [sigma(path) for path in epochs]
    assert all(np.isfinite(field).all() for field in fields)
    assert not np.array_equal(fields[0], fields[-1])
    assert np.array_equal(fields[-1], sigma(folder))


def simulate(folder: Path, *words: str) -> None:
    config = str(folder / "config.yaml")
    main.app(["simulate", config, "--out", str(folder), "--quiet", *words], standalone_mode=False)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("pre", "pre"),
        ("post", "."),
        ("control", "control"),
        ("post_cycle1", "checkpoints/cycle1_epoch5"),
        ("post_cycle1_epoch1", "checkpoints/cycle1_epoch1"),
    ],
)
def test_models_are_simulated_by_name(refined, name, place):
    simulate(refined, "--eval-model", name)
    note, folder = read_json(refined / "simulate" / "model.json"), refined / "refine" / place
    assert Path(note["path"]) == folder.resolve() and note["identity"] == identity(folder)
    assert len(read_outcomes(refined / "simulate" / "replicas.csv")) == 4


def test_a_model_that_is_not_there_is_one_sentence(refined, monkeypatch, capsys):
    words = ["simulate", str(refined / "config.yaml"), "--out", str(refined), "--eval-model", "post_cycle7"]
    monkeypatch.setattr(sys, "argv", ["cgrefine", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1
    assert "has no such model; choose from pre, post, control, post_cycle1_epoch1, post_cycle1, " in told


def test_a_path_and_a_name_are_refused(refined, tmp_path):
    with pytest.raises(InputError, match="--model and --eval-model: give one of them"):
        simulate(refined, "--eval-model", "pre", "--model", str(refined / "train"))
    with pytest.raises(InputError, match=r"--eval-model needs the folder .*run `cgrefine refine` first"):
        main.app(
            ["simulate", str(refined / "config.yaml"), "--out", str(tmp_path), "--eval-model", "pre"],
            standalone_mode=False,
        )


@pytest.mark.skipif(browser.executable() is None, reason="no browser: `make browser`")
def test_the_page_opens_from_disk_without_an_error_or_a_request(refined, tmp_path):
    page, executable = refined / "refine" / "report.html", browser.executable()
    assert executable is not None
    with browser.opened(executable, tmp_path / "profile") as tab:
        tab.open(page.as_uri(), 1280, 900)
        tab.wait_for("document.querySelectorAll('figure').length > 5")
        tab.wait_for("[...document.querySelectorAll('figure')].every(f => f.classList.contains('drawn'))")
        assert tab.errors == []
        assert [r for r in tab.requests if not r.startswith(("data:", "blob:"))] == [page.as_uri()]
        assert tab.evaluate("document.documentElement.scrollWidth") == 1280
        text = tab.evaluate("document.body.innerText")
    assert "forces alone" in text and "OVERLAP" in text


def dead(tmp_path: Path, **changes) -> tuple[Path, dict]:
    """A refinement of cut bonds, in which all replicas fail within a few steps."""
    settings = {"epochs": 3, "explore_windows": 2, "evaluation": {"replicas": 4, "duration_ps": 2.0}}
    folder = refine_toy.run_folder(tmp_path, bonds=0.0, **settings, **changes)
    refine_toy.refine(folder)
    return folder, content(folder)["models"]


def test_replicas_that_all_die_at_once_are_counted(tmp_path):
    """With states that failed as the only frames, and without any frame at all."""
    folder, found = dead(tmp_path / "none", negative_weight=0.0)
    assert [row["failed"] for row in log(folder)] == ["1.0"] * 4
    assert [row["updates"] for row in log(folder)] == ["0"] * 4
    assert np.array_equal(sigma(folder / "refine"), sigma(folder / "refine" / "pre").astype(np.float32))
    folder, _ = dead(tmp_path / "few")
    assert [row["updates"] for row in log(folder)] == ["0", "4", "4", "0"]
    for model in found.values():
        assert model["stable"] == 0 and model["failures"] == {"BOND": 4}
    page = (folder / "refine" / "report.html").read_text()
    assert "BOND 8" in page


def test_a_start_without_forces_is_refused(tmp_path):
    """A repulsion that overflows on reference frames."""
    folder = refine_toy.run_folder(tmp_path, sigma_A=1e4)
    with pytest.raises(InputError, match="the force error of this model on validation frames is not finite"):
        refine_toy.refine(folder)
    assert not (folder / "refine").exists()


@pytest.mark.slow
def test_without_a_control_there_is_none(tmp_path):
    """Two chains of different lengths, with one replica each to judge; then the stage is skipped."""
    evaluation = {"replicas": 2, "duration_ps": 2.0, "control": False}
    folder = refine_toy.run_folder(tmp_path, (8, 10), epochs=2, explore_windows=1, evaluation=evaluation)
    assert refine_toy.refine(folder)
    assert list(content(folder)["models"]) == ["pre", "post"]
    assert not (folder / "refine" / "control").exists()
    arrays = np.load(folder / "refine" / "evaluation" / "post" / "observables.npz")
    assert {name.split("|")[0] for name in arrays.files} == {"chain0", "chain1"}
    assert not refine_toy.refine(folder)
    assert json.loads((folder / "refine" / "metrics.json").read_text())["stage"] == "refine"
