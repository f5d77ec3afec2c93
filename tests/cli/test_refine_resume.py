"""refine after signals and kill -9: the same command ends with the same force fields and the same log."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cgrefine.artifacts import read_json, write_json
from cgrefine.boltzmann.refine import Refinement
from cgrefine.checkpoint import load_params, save_params
from cgrefine.cli import main
from cgrefine.errors import InputError, Interrupted
from tests.cli import refine_toy

CGREFINE = [sys.executable, "-c", "from cgrefine.cli.main import main; main()"]


def scratch(folder: Path) -> Path:
    return folder / ".refine.partial" / ".unfinished"


def windows(folder: Path) -> int:
    """That are in the state file, 0 without one."""
    path = scratch(folder) / "state.npz"
    return int(load_params(path)["state"]["counters/windows"]) if path.exists() else 0


def ended(folder: Path, number: int, when: Callable[[], bool], devices: int = 1) -> tuple[int, str]:
    """The command in a process of its own, which is sent a signal as soon as it is time: code, errors."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_ENABLE_X64": "1", "MPLBACKEND": "agg"}
    command = [*CGREFINE, "refine", str(folder / "config.yaml"), "--out", str(folder), "--quiet"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while process.poll() is None and not when():
            time.sleep(0.005)
        process.send_signal(number)
        _, told = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, told


def asked_after(patch: pytest.MonkeyPatch, number: int) -> None:
    """A signal comes during window `number` of a refinement in this process."""
    step = Refinement.step

    def signalled(self, state):
        if int(state.counters.windows) == number - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, state)

    patch.setattr(Refinement, "step", signalled)


def interrupted(folder: Path, number: int) -> Path:
    """A folder whose refinement was ended by a signal in window `number`."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted) as error:
        asked_after(patch, number)
        refine_toy.refine(folder)
    assert error.value.number == signal.SIGTERM and not (folder / "refine").exists()
    assert f"after window {number}, its state is written" in str(error.value)
    assert windows(folder) == number
    return folder


@pytest.mark.stages
def test_a_signal_and_kill_9_change_no_number(tmp_path, refined):
    """SIGTERM ends it after the window at hand, kill -9 in the middle of a later one; a third ends."""
    folder = refine_toy.run_folder(tmp_path / "broken")
    code, told = ended(folder, signal.SIGTERM, lambda: windows(folder) >= 2)
    assert code == 128 + signal.SIGTERM
    assert "refinement was ended by a signal after window" in told and told.endswith("goes on from there\n")
    first = windows(folder)
    assert 2 <= first < len(read_log(refined)) and not (folder / "refine").exists()
    at: list[float] = []

    def in_a_window() -> bool:
        if not at and windows(folder) > first:
            at.append(time.monotonic())
        return bool(at) and time.monotonic() - at[0] > 0.02

    code, _ = ended(folder, signal.SIGKILL, in_a_window)
    assert code == -signal.SIGKILL and windows(folder) > first
    refine_toy.refine(folder)
    assert refine_toy.result(folder) == refine_toy.result(refined)


def read_log(folder: Path) -> list[str]:
    return (folder / "refine" / "log.csv").read_text().splitlines()[1:]


@pytest.mark.stages
def test_pieces_of_other_work_are_not_taken_up(tmp_path, refined):
    """A state, a judgement and a checkpoint of other settings: all gone, with the numbers of none."""
    folder = interrupted(refine_toy.run_folder(tmp_path / "other"), 2)
    place = folder / ".refine.partial"
    for model in ("pre", "post"):
        shutil.copytree(refined / "refine" / "evaluation" / "control", place / "evaluation" / model)
    (place / "checkpoints" / "cycle9_epoch9").mkdir(parents=True)
    work = read_json(scratch(folder) / "work.json")
    write_json(scratch(folder) / "work.json", {**work, "fingerprint": "other"})
    refine_toy.refine(folder)
    assert refine_toy.result(folder) == refine_toy.result(refined)
    assert not (folder / "refine" / "checkpoints" / "cycle9_epoch9").exists()


@pytest.mark.stages
def test_a_damaged_state_is_one_sentence(tmp_path, monkeypatch, capsys):
    folder = interrupted(refine_toy.run_folder(tmp_path / "damaged"), 1)
    path = scratch(folder) / "state.npz"
    whole = path.read_bytes()
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 255
    for content in (bytes(middle), whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"is no state of a refinement .*begin anew with --resume never"):
            refine_toy.refine(folder)
    words = ["refine", str(folder / "config.yaml"), "--out", str(folder), "--quiet"]
    monkeypatch.setattr(sys, "argv", ["cgrefine", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as code:
        main.main()
    assert code.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert not (folder / "refine").exists()
    facts = {"format": 1, "fingerprint": "other", "kept": 0, "log": []}
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    save_params(path, {"log": text, "state": {"of": np.zeros(3)}})  # of other settings: never looked at
    with pytest.raises(Interrupted), pytest.MonkeyPatch.context() as patch:
        asked_after(patch, 1)
        refine_toy.refine(folder)
    assert windows(folder) == 1


@pytest.mark.slow
def test_two_devices_have_the_numbers_of_one(tmp_path):
    """Three packs of chains of two lengths, on one device, on two, and on two after a signal on one."""
    found = []
    for name, devices in (("one", [1]), ("two", [2]), ("begun", [1, 2])):
        folder = refine_toy.run_folder(tmp_path / name, (8, 10))
        refine_toy.write_config(folder, sim={"packs": 3})
        if len(devices) == 2:
            code, _ = ended(folder, signal.SIGTERM, lambda: windows(folder) >= 2, devices[0])  # noqa: B023  (called in this round)
            assert code == 128 + signal.SIGTERM
        code, told = ended(folder, signal.SIGTERM, lambda: False, devices[-1])
        assert code == 0, told
        found.append(refine_toy.result(folder))
    assert found[0] == found[1] == found[2] and len(found[0]) > 5


@pytest.mark.slow
def test_packs_are_as_many_as_the_devices_that_began(tmp_path):
    """Begun on two devices and ended on one: the numbers of two stated packs, and not those of one."""
    folder, stated, single = (
        refine_toy.run_folder(tmp_path / name) for name in ("begun", "stated", "single")
    )
    refine_toy.write_config(stated, sim={"packs": 2})
    code, _ = ended(folder, signal.SIGTERM, lambda: windows(folder) >= 2, devices=2)
    assert code == 128 + signal.SIGTERM and read_json(scratch(folder) / "work.json")["packs"] == 2
    for each in (folder, stated, single):
        refine_toy.refine(each)
    assert refine_toy.result(folder) == refine_toy.result(stated) != refine_toy.result(single)
