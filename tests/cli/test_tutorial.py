"""The commands of docs/tutorial.md, run as they stand but for the folder, and what the page says of them."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cgrefine.artifacts import read_json
from cgrefine.cli.main import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
COMMANDS = [shlex.split(block) for block in re.findall(r"```\n(.*?)\n```", TEXT, re.DOTALL)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs one command of the page, and gives its metrics and checks."""

    def run_one(index: int, *further: str) -> dict:
        monkeypatch.chdir(ROOT)
        program, *arguments = [*COMMANDS[index], *further]
        place = arguments.index("--out") + 1
        arguments[place] = str(tmp_path / arguments[place])
        done = CliRunner().invoke(app, arguments)
        assert program == "cgrefine" and done.exit_code == 0, done.output
        folder = Path(arguments[place]) / "toy"
        assert (folder / "report.html").stat().st_size > 100_000 and (folder / "table.csv").is_file()
        return read_json(folder / "metrics.json")

    return run_one


def test_every_block_of_the_page_is_a_command():
    assert len(COMMANDS) == 4 == TEXT.count("```") // 2
    assert [c[c.index("--out") + 1] for c in COMMANDS] == [
        f"runs/{name}" for name in ("tutorial", "activations", "decay", "refinement")
    ]


@pytest.mark.stages
@pytest.mark.parametrize("index", [0, 3], ids=["all", "refinement"])
def test_the_long_ones_in_short(index, run):
    """With few epochs and particles; what the page says of the results is tested where slow tests are."""
    few = [
        "toy.members=1", "toy.train.epochs=2",
        "toy.refinement.loop.epochs=2", "toy.refinement.loop.replicas=60", "toy.refinement.gradient_groups=8",
    ]  # fmt: skip
    metrics = run(index, *(part for value in few for part in ("--set", value)))["metrics"]
    models = [name for name in metrics if name.endswith(".force_error")]
    assert len(models) >= (13 if index == 0 else 1)
    assert all(metrics[name] > 0.0 for name in models)


@pytest.mark.slow
def test_the_whole_of_it(run):
    found = run(0)
    assert {k: c["value"] for k, c in found["checks"].items() if not c["passed"]} == {}
    metrics = found["metrics"]
    assert metrics["V2.fourier.force_rmse"]["value"] > 1.5 * metrics["V2.floor.force_rmse"]["value"]


@pytest.mark.stages
def test_relu_is_stuck_where_the_others_are_not(run):
    metrics = run(1)["metrics"]
    found = {name: metrics[f"V1.{name}.force_error"] for name in ("relu", "tanh", "silu", "direct")}
    assert found["relu"] > 0.4
    assert max(found[name] for name in ("tanh", "silu", "direct")) < 0.25


@pytest.mark.stages
def test_fourier_features_with_weight_decay(run):
    metrics = run(2)["metrics"]
    assert metrics["V2.fourier.pmf_rmse"]["value"] < 0.1


@pytest.mark.slow
def test_refinement_alone(run):
    checks = run(3)["checks"]
    assert checks["refinement: error of the population falls by (above)"]["passed"]
    assert checks["refinement: gradient, standard errors"]["passed"]
