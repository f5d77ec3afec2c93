"""The evaluate stage and `compare` on a small data set of known priors and noise."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cgrefine.artifacts import Record, Stage, read_json, write_json
from cgrefine.cli import compare, evaluate
from cgrefine.cli.console import Console
from cgrefine.cli.main import main
from cgrefine.config.load import parse
from cgrefine.data.store import write_domain, write_index
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.fm.blocks import Estimate
from tests.fm.prior_toy import FACTS, T_K, TRUE, prior_domain
from tests.report.pages import valid_figures

pytestmark = pytest.mark.stages

NOISE = 2.0
CONFIG = parse({}, "test")
LOG = """epoch,steps,a_new_column,train_loss,val_force_mse
0,0,x,,30.5
1,10,y,9.5,8.25
2,10,z,nan,6.5
"""
MAPS = [{"name": "chain1", "maps": {
    "basic": {"held_out": 600.0}, "windowed ±1, cross-fitted": {"held_out": 200.0},
}}]  # fmt: skip
FIGURES = (
    "scatter", "distributions", "chain_position", "residue_type", "temperature", "noise_floor",
    "learning_curve",
)  # fmt: skip


def scaled(factor: float) -> forcefield.ForceField:
    bond = {**TRUE["bond"], "k": factor * TRUE["bond"]["k"]}
    return forcefield.prior_only(FACTS, {"bond": bond, "repulsion": TRUE["repulsion"]}, T_K)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with data of two temperatures, true priors, a log of training and a comparison of maps."""
    root, entries = tmp_path_factory.mktemp("run"), []
    for seed in (1, 2):
        domain = prior_domain(8, 80, seed, noise=NOISE)
        arrays = {name: np.asarray([getattr(domain, name)[k] for k in range(80)]) for name in
                  ("positions", "forces", "replica", "frame")}  # fmt: skip
        arrays["temperature_K"] = np.repeat([300.0, 400.0], 40)
        arrays["frame"] = np.tile(np.arange(40), 2)
        arrays["validation"] = np.ones(80, bool)
        entries.append(write_domain(root / "prepare", domain.name, domain.topology, arrays, {}))
    write_index(root / "prepare", entries, {"force_map": {"kind": "basic", "zero_net_force": False}})
    write_json(root / "prepare" / "noise.json", MAPS)
    forcefield.save(root / "train" / "forcefield", scaled(1.0))
    forcefield.save(root / "priors" / "forcefield", scaled(0.8))
    (root / "train" / "log.csv").write_text(LOG)
    return root


@pytest.fixture(scope="module")
def stage(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    stage = Stage("evaluate", tmp_path_factory.mktemp("evaluate"), Record())
    evaluate.build(stage, CONFIG, root, Console(quiet=True))
    return stage


def test_rmse_stands_beside_mse_with_units(stage: Stage):
    metrics = stage.record.metrics
    for rmse, mse in (
        ("force_rmse_kcal_mol_A", "force_mse"),
        ("force_rmse_prior_kcal_mol_A", "force_mse_prior"),
        ("force_rmse_zero_kcal_mol_A", "force_mse_zero"),
    ):
        assert metrics[rmse]["value"] == pytest.approx(np.sqrt(metrics[mse]["value"]))
        assert metrics[rmse]["unit"] == "kcal/mol/Å" and metrics[mse]["unit"] == "(kcal/mol/Å)²"
    page = (stage.path / "report.html").read_text()
    assert "RMSE kcal/mol/Å" in page and "MSE (kcal/mol/Å)²" in page
    assert stage.record.checks["below_zero_model"]["passed"]
    assert "below_prior" not in stage.record.checks


def test_the_numbers_are_those_of_the_noise(stage: Stage):
    components = 3 * 8 * 160
    mse = stage.record.metrics["force_mse"]
    assert mse["value"] == pytest.approx(NOISE**2, abs=4 * NOISE**2 * np.sqrt(2 / components))
    floor = stage.record.metrics["noise_floor_mse"]
    assert floor["value"] == pytest.approx(NOISE**2, abs=4 * floor["stderr"])
    assert stage.record.metrics["noise_floor_mse_at_most"]["value"] <= mse["value"]


def test_every_division_is_on_the_page_and_in_the_file(stage: Stage):
    found = read_json(stage.path / "evaluation.json")
    assert set(found["breakdowns"]) == {
        "chain position", "residue type", "component", "local axis", "temperature", "protein",
    }  # fmt: skip
    assert [row["group"] for row in found["breakdowns"]["temperature"]] == ["300 K", "400 K"]
    for rows in found["breakdowns"].values():
        for row in rows:
            assert set(row["mse"]) == {"value", "stderr"} and row["components"] > 0
    page = (stage.path / "report.html").read_text()
    for text in ("By protein", "chain2", "N-terminal 1", "into the bend", "400 K", "bond", "repulsion"):
        assert text in page
    json.dumps(found, allow_nan=False)


def test_figures_are_files_and_on_the_page(stage: Stage):
    for name in FIGURES:
        assert (stage.path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (stage.path / "report.html").read_text()
    assert page.count('<figure class="plot') == page.count("data:image/png") == len(FIGURES) + 3
    with np.load(stage.path / "histograms.npz") as found:
        assert found["counts|reference"].sum() == found["counts|reference"].astype(int).sum() > 0


def test_maps_bound_the_floor_from_below(stage: Stage):
    (bound,) = read_json(stage.path / "evaluation.json")["noise_floor"]["maps"]
    assert (bound["used"], bound["least"], bound["noise_at_least"]) == (600.0, 200.0, 400.0)
    assert "Noise floor from the force maps" in (stage.path / "report.html").read_text()


def test_the_log_is_read_by_its_column_names(root: Path, tmp_path: Path):
    curve = evaluate.learning_curve(root / "train" / "log.csv")
    assert curve is not None and curve.epoch == [0.0, 1.0, 2.0] and curve.validation == [30.5, 8.25, 6.5]
    assert np.isnan(curve.training[0]) and curve.training[1] == 9.5
    assert evaluate.learning_curve(tmp_path / "none.csv") is None
    wrong = tmp_path / "log.csv"
    wrong.write_text("epoch,loss\n1,2\n")
    with pytest.raises(InputError, match=r"log\.csv: not the log of a training"):
        evaluate.learning_curve(wrong)


def test_estimates_as_text():
    assert evaluate.with_error(Estimate(9.4978, 0.1189)) == "9.498 ± 0.12"
    assert evaluate.with_error(Estimate(2.0, float("nan"))) == "2"
    assert evaluate.with_error(Estimate(float("nan"), 1.0)) == "–"


@pytest.fixture(scope="module")
def compared(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "new"
    lost = tmp_path_factory.mktemp("lost") / "copy"
    shutil.copytree(root / "train" / "forcefield", lost)
    paths = [str(root), str(root / "priors"), str(lost)]
    compare.run_comparison(paths, None, CONFIG, out, Console(quiet=True))
    return out


def test_compare_tells_better_from_worse(compared: Path, root: Path):
    found = read_json(compared / "comparison.json")
    first, worse, same = found["force_fields"]
    assert first["name"] == str(root) and first["difference"] is None
    assert worse["difference"]["significant"] and worse["difference"]["mse"]["value"] > 0.0
    assert not same["difference"]["significant"] and same["difference"]["mse"]["value"] == 0.0
    assert [row["held_out"] for row in (first, worse, same)] == ["yes", "yes", "not known"]
    assert set(first["by_temperature"]) == {"300", "400"}
    page = (compared / "report.html").read_text()
    for text in ("worse", "not told apart", "no model", "mean of their predictions", "may be among those"):
        assert text in page
    assert (compared / "differences.png").is_file()
    (figure,) = valid_figures(compared / "report.html")
    drawn = {t["name"]: (t["x"], t["y"]) for t in figure["data"]}
    gap = worse["difference"]["mse"]["value"]
    assert drawn == {"worse": ([0], [pytest.approx(gap, rel=1e-5)]), "not told apart": ([1], [0.0])}


@pytest.mark.parametrize(
    ("paths", "data", "message"),
    [
        (["{root}"], None, "1 force field given, must be two or more"),
        (["{root}", "{root}"], None, "is named twice"),
        (["{root}", "{root}/prepare"], None, "prepare: holds neither a force field"),
        (["{root}/priors", "{root}"], "{root}/train", "--data .*holds no data set"),
    ],
)
def test_compare_refuses_what_makes_no_sense(root: Path, tmp_path: Path, paths, data, message):
    given = [path.format(root=root) for path in paths]
    folder = None if data is None else Path(data.format(root=root))
    with pytest.raises(InputError, match=message):
        compare.run_comparison(given, folder, CONFIG, tmp_path / "out", Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_wrong_input_to_compare_is_one_sentence_and_exit_code_2(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cgrefine", "compare", "a", "b", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("cgrefine: a: holds neither a force field") and shown.count("\n") == 1


def test_compare_refuses_another_residue_table(root: Path, tmp_path: Path):
    strange = tmp_path / "strange"
    shutil.copytree(root / "train" / "forcefield", strange)
    facts = read_json(strange / "forcefield.json")
    write_json(strange / "forcefield.json", {**facts, "species": facts["species"][:-1]})
    with pytest.raises(InputError, match="species table is not this version's"):
        compare.found_entries([str(root), str(strange)])


def test_compare_needs_a_data_set(root: Path, tmp_path: Path):
    copy = tmp_path / "a" / "copy"
    shutil.copytree(root / "train" / "forcefield", copy)
    (entry, _) = compare.found_entries([str(copy), str(root)])
    with pytest.raises(InputError, match="is in no run with a data set; give one with --data"):
        compare.data_folder(None, entry)
    assert compare.data_folder(root, entry) == root / "prepare"
