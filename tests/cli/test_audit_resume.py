"""`audit --model` after kill -9, a signal and a full disk: the same command ends with the same verdict."""

import json
import os
import random
import signal
import sys
from pathlib import Path

import pytest

from cgrefine import checkpoint
from cgrefine.cli import audit_model, main, simulate_packs
from cgrefine.errors import InputError, Interrupted
from cgrefine.sim.rollout import ended
from tests.cli.test_simulate_resume import SIM, disk_of, kill_after, run_folder

pytestmark = pytest.mark.stages

GIVEN = {f"sim.{name}": json.dumps(value) for name, value in SIM.items()}
GIVEN |= {"audit.checks": "[mirror]", "audit.calibrate": "false"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A force field and a data set."""
    return run_folder(tmp_path_factory.mktemp("given"))


def words(place: Path, out: Path) -> list[str]:
    """The command without its --quiet."""
    settings = [word for pair in GIVEN.items() for word in ("--set", "=".join(pair))]
    return ["audit", "--model", str(place / "train"), "--reference", str(place), "--out", str(out), *settings]


def here(place: Path, out: Path, *more: str) -> None:
    """The command in this process."""
    main.app([*words(place, out), "--quiet", *more], standalone_mode=False)


def told(out: Path) -> dict:
    return json.loads((out / "audit" / "audit.json").read_text())


def left(out: Path) -> Path:
    return out / ".audit.partial" / ".unfinished" / "model0" / "pack000.npz"


@pytest.fixture(scope="module")
def done(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of an undisturbed audit."""
    out = tmp_path_factory.mktemp("whole")
    here(place, out)
    return out


@pytest.fixture(scope="module")
def whole(done: Path) -> dict:
    """What that says."""
    return told(done)


def test_an_undisturbed_audit_leaves_nothing_behind(done, whole):
    """And fails, though some replicas are stable: so that what is compared below holds both."""
    assert not any(path.name.startswith(".") for path in (done / "audit").rglob("*"))
    assert {row["status"] for row in whole["replicas"]} == {"OK", "BOND"} and not whole["passed"]


def test_strict_ends_with_exit_code_3(place, done, monkeypatch, capsys):
    """Of the finished folder, which is not made again; 0 without it."""
    for more, code in (([], 0), (["--strict"], 3)):
        monkeypatch.setattr(sys, "argv", ["cgrefine", *words(place, done), *more])
        with pytest.raises(SystemExit) as exit_:
            main.main()
        assert (exit_.value.code or 0) == code
    said = capsys.readouterr().err
    assert "unstable_fraction" in said.splitlines()[-1]


@pytest.fixture
def taken_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames that were there already, of each run of dynamics that begins."""
    rollout, found = simulate_packs.rollout, []

    def noted(*arguments, **options):
        resume = options["resume"]
        found.append(0 if resume is None else ended(resume).frames)
        return rollout(*arguments, **options)

    monkeypatch.setattr(simulate_packs, "rollout", noted)
    return found


def test_a_full_disk_is_told_and_loses_no_whole_chunk(place, whole, tmp_path, taken_up):
    with disk_of(60_000), pytest.raises(InputError, match=r"audit: cannot be written \(File too large"):
        here(place, tmp_path)
    done = ended(checkpoint.load_params(left(tmp_path))).frames
    assert done > 0 and not (tmp_path / "audit").exists()
    here(place, tmp_path)
    assert taken_up == [0, done] and told(tmp_path) == whole


def test_a_fault_in_the_checks_keeps_the_dynamics(place, whole, tmp_path, taken_up, monkeypatch):
    """The folder that the first attempt wrote of the force field is made anew from the records."""
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="planted"):
        patch.setattr(audit_model, "audited", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("planted")))
        here(place, tmp_path)
    assert (tmp_path / ".audit.partial" / "model0" / "replicas.csv").exists()
    here(place, tmp_path)
    assert taken_up == [0] and told(tmp_path) == whole


def test_resume_never_and_other_settings_begin_anew(place, whole, tmp_path, taken_up):
    for more in (["--resume", "never"], ["--set", "sim.seed=7"]):
        out = tmp_path / more[1]
        with disk_of(60_000), pytest.raises(InputError, match="cannot be written"):
            here(place, out)
        here(place, out, *more)
        assert (told(out) == whole) == (more[0] == "--resume")
    assert taken_up == [0] * 4


def test_a_signal_ends_it_after_the_chunk_at_hand(place, whole, tmp_path, monkeypatch):
    rollout = simulate_packs.rollout

    def signalled(*arguments, **options):
        for number, chunk in enumerate(rollout(*arguments, **options)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield chunk

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="ended by a signal after 3 ps"):
        patch.setattr(simulate_packs, "rollout", signalled)
        here(place, tmp_path)
    here(place, tmp_path)
    assert told(tmp_path) == whole


@pytest.mark.slow
def test_kill_9_at_random_moments(place, whole, tmp_path, taken_up):
    """Six times, among them during the start, the checks and the writing of the page."""
    rng = random.Random(5)
    for number in range(6):
        out, before = tmp_path / str(number), len(taken_up)
        chunks = rng.randrange(1, 21)
        kill_after(words(place, out), left(out).with_suffix(".frames"), chunks, rng.uniform(0.0, 1.0))
        here(place, out)
        assert told(out) == whole, number
        assert all(done >= 10 * (chunks - 1) for done in taken_up[before:])
