"""`inspect` on raw files and on a data set: the numbers a person looks for are on the page."""

import pytest

from cgrefine.cli.console import Console
from cgrefine.cli.inspect import inspect
from cgrefine.cli.stages import run_stage
from cgrefine.config import parse
from cgrefine.errors import InputError
from tests.data.mini import Mini, edit


@pytest.fixture
def path(tmp_path):
    path = Mini().write(tmp_path / "mini.h5")
    return edit(path, "1abcA00/320/0/coords", lambda x: x.__setitem__(slice(26, None), 0.0) or x)


def cells(text):
    return [word for word in text.replace("│", " ").split() if word[0] not in "┏┡├└"]


def test_raw_file(path, capsys):
    inspect([str(path)], 1e4, Console(quiet=True))
    shown = cells(capsys.readouterr().out)
    row = shown[shown.index("1abcA00") :]
    assert row[:8] == ["1abcA00", "5", "49", "47", "4", "120", "4", "1"]
    assert "AHG/SV;" in shown and "320" in shown and "psf" in shown


def test_limit_decides_what_is_bad(path):
    """The mini domain is 29 Å long: with a limit of 20 Å no frame is valid."""
    with pytest.raises(InputError, match="coordinate above 20 Å"):
        inspect([str(path)], 20.0, Console(quiet=True))


def test_data_set_and_run_folder(path, tmp_path, capsys):
    config = parse({"data": {"raw": [str(path)], "split": {"by": "replica"}}}, "test")
    run_stage("prepare", config, tmp_path / "out", Console(quiet=True))
    for folder in (tmp_path / "out", tmp_path / "out" / "prepare"):
        inspect([str(folder)], 1e4, Console(quiet=True))
        shown = cells(capsys.readouterr().out)
        row = shown[shown.index("1abcA00") :]
        assert row[:6] == ["1abcA00", "5", "116", "60", "4", "1"]
        assert "AHG/SV;" in shown


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="matches no file"):
        inspect([str(tmp_path / "nothing.h5")], 1e4, Console(quiet=True))
