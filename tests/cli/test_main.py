"""The command line as a user meets it: help without jax, one sentence and exit code 2 on wrong input."""

import subprocess
import sys

import pytest

from cgrefine.cli.main import STAGES
from cgrefine.cli.stages import BY_NAME


def cgrefine(*arguments):
    """Run the command line in a process of its own, as a shell would."""
    program = "from cgrefine.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def test_help_imports_neither_jax_nor_pydantic():
    program = (
        "import sys, contextlib\n"
        "from cgrefine.cli.main import app\n"
        "with contextlib.suppress(SystemExit): app(['--help'])\n"
        "loaded = {'jax', 'jax_md', 'numpy', 'pydantic', 'mdtraj'} & set(sys.modules)\n"
        "sys.exit(repr(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in ("sample", "inspect", "run", "ablate", "compare", *STAGES):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["run", "sample", "inspect", "ablate", "compare", *STAGES])
def test_help_of_each_command_names_input_output_and_example(command):
    import typer.testing

    from cgrefine.cli.main import app

    shown = typer.testing.CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    for part in ("Input:", "Output", "Example: cgrefine"):
        assert part in shown


def test_every_stage_has_a_command():
    assert set(STAGES) == set(BY_NAME)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {raw: [nowhere.h5]}", "nowhere.h5"),
        ("data: {raw: [sample], strid: 2}", "data.strid: unknown key (did you mean stride?)"),
        ("{}", "prepare needs the section `data`"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path, text, message):
    config = tmp_path / "c.yaml"
    config.write_text(text)
    done = cgrefine("prepare", config, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "prepare").exists()


def test_a_stage_without_its_input_names_the_command_to_run(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("data: {raw: [sample]}")
    done = cgrefine("priors", config, "--out", tmp_path)
    assert done.returncode == 2 and "run `cgrefine prepare` first" in done.stderr


def test_an_incomplete_config_fails_before_anything_is_computed(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("data: {raw: [sample]}")
    done = cgrefine("run", config, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "missing section model (needed by train)" in done.stderr
    assert not (tmp_path / "out").exists()
