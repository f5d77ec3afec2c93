"""simulate after kill -9, a signal and a full disk: the same command ends with the same numbers."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from cgrefine import checkpoint
from cgrefine.artifacts import write_json
from cgrefine.cli import simulate_packs
from cgrefine.cli.console import Console
from cgrefine.cli.stages import run_stage
from cgrefine.config.load import load_config
from cgrefine.data.store import write_domain, write_index
from cgrefine.errors import InputError, Interrupted
from cgrefine.fm import forcefield
from cgrefine.sim.records import layout
from cgrefine.sim.rollout import ended
from cgrefine.sim.trajectory import read_frames
from tests.fm.prior_toy import FACTS, T_K, WRONG, prior_domain

pytestmark = pytest.mark.stages

SIM = {
    "temperature_K": T_K, "timestep_fs": 4, "friction_per_ps": 1.0, "replicas": 3, "duration_ps": 20.0,
    "save_every_ps": 0.1, "start": "extended", "format": "xtc",
    "criteria": {"size_limits": False, "bond_deviation_A": 0.31, "second_neighbor_min_A": 0.01},
}  # fmt: skip
"""200 frames in 20 chunks; the limit on bonds is one that a replica meets now and then."""

PRIORS = {name: WRONG[name] for name in ("bond", "repulsion")}
CGREFINE = [sys.executable, "-c", "from cgrefine.cli.main import main; main()"]


def run_folder(folder: Path) -> Path:
    """A run folder with all that simulate reads, and its configuration."""
    (folder / "prepare").mkdir(parents=True)
    domain = prior_domain(12, 6, 1)
    names = ("positions", "forces", "temperature_K", "replica", "frame")
    arrays = {name: np.asarray([getattr(domain, name)[k] for k in range(6)]) for name in names}
    arrays["validation"] = np.zeros(6, bool)
    entry = write_domain(folder / "prepare", domain.name, domain.topology, arrays, {})
    write_index(folder / "prepare", [entry], {})
    facts = {"terms": [t for t in FACTS["terms"] if t["name"] in PRIORS]}
    forcefield.save(folder / "train" / "forcefield", forcefield.prior_only(facts, PRIORS, T_K))
    for name in ("prepare", "train"):
        write_json(folder / name / "provenance.json", {"fingerprint": name})
    (folder / "config.yaml").write_text(yaml.safe_dump({"sim": SIM}))
    return folder


@pytest.fixture(autouse=True, scope="module")
def _one_model() -> Iterator[None]:
    """The force field is loaded once, so that its program is compiled once."""
    load, known = forcefield.load, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forcefield, "load", lambda path: known.setdefault("model", load(path)))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What an undisturbed run leaves."""
    folder = run_folder(tmp_path_factory.mktemp("whole"))
    here(folder)
    return kept(folder)


def here(folder: Path, resume: bool = True) -> None:
    """The command in this process."""
    run_stage("simulate", load_config(folder / "config.yaml"), folder, Console(quiet=True), resume=resume)


def kept(folder: Path) -> dict[str, object]:
    """Bytes of tables and trajectories; PDB files without the line that holds the date."""
    found: dict[str, object] = {}
    for path in sorted((folder / "simulate").rglob("*")):
        name = str(path.relative_to(folder / "simulate"))
        if path.suffix in (".csv", ".xtc"):
            found[name] = path.read_bytes()
        elif path.suffix == ".pdb":
            found[name] = [line for line in path.read_text().splitlines() if "MDTraj" not in line]
    return found


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "simulate").rglob("*")}


def killed(folder: Path, chunks: int, after: float) -> None:
    """Run the command in a process of its own and kill it some time after so many chunks were written."""
    words = ["simulate", str(folder / "config.yaml"), "--out", str(folder)]
    kill_after(words, folder / ".simulate.partial" / ".unfinished" / "pack000.frames", chunks, after)


def kill_after(words: list[str], records: Path, chunks: int, after: float) -> None:
    """Kill a command some time after its records hold so many chunks."""
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "MPLBACKEND": "agg"}
    process = subprocess.Popen([*CGREFINE, *words, "--quiet"], env=environment, stderr=subprocess.PIPE)
    bytes_a_chunk = 10 * layout(3 * 12, 3).itemsize
    try:
        while process.poll() is None and not (
            records.exists() and records.stat().st_size >= chunks * bytes_a_chunk
        ):
            time.sleep(0.002)
        time.sleep(after)
    finally:
        process.kill()
        _, told = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), told.decode()


@contextmanager
def disk_of(limit: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_undisturbed_run_fails_somewhere(whole):
    """So that what is compared below holds failures too."""
    assert any(name.startswith("failures/") and name.endswith(".pdb") for name in whole)
    assert sum(name.endswith(".xtc") for name in whole) == 3


@pytest.mark.slow
def test_kill_9_loses_no_whole_chunk(tmp_path, whole):
    folder = run_folder(tmp_path / "killed")
    killed(folder, 5, 0.0)
    left = folder / ".simulate.partial" / ".unfinished"
    done = ended(checkpoint.load_params(left / "pack000.npz")).frames
    assert done >= 40 and not (folder / "simulate").exists()
    here(folder)
    assert kept(folder) == whole
    assert not any(name.startswith(".") for name in names(folder))


@pytest.mark.slow
def test_kill_9_at_random_moments(tmp_path, whole):
    """Twelve times, among them during the start and the writing of results; some are killed twice."""
    rng = random.Random(3)
    for number in range(12):
        folder = run_folder(tmp_path / f"killed{number}")
        for _ in range(1 + number % 2):
            killed(folder, rng.randrange(21), rng.uniform(0.0, 0.3))
        here(folder)
        assert kept(folder) == whole, number


def test_a_signal_ends_it_after_the_chunk_at_hand(tmp_path, whole, monkeypatch):
    folder, rollout = run_folder(tmp_path / "asked"), simulate_packs.rollout

    def signalled(*arguments, **options):
        for number, chunk in enumerate(rollout(*arguments, **options)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield chunk

    monkeypatch.setattr(simulate_packs, "rollout", signalled)
    with pytest.raises(Interrupted, match="ended by a signal after 3 ps") as error:
        here(folder)
    assert error.value.number == signal.SIGTERM and not (folder / "simulate").exists()
    monkeypatch.setattr(simulate_packs, "rollout", rollout)
    here(folder)
    assert kept(folder) == whole


@pytest.mark.parametrize("limit", [3000, 60_000], ids=["first chunk", "later chunk"])
def test_a_full_disk_is_told_and_loses_nothing(tmp_path, whole, limit):
    """One sentence, nothing under its final name, and the same numbers once there is room."""
    folder = run_folder(tmp_path / "full")
    with disk_of(limit), pytest.raises(InputError, match=r"simulate: cannot be written \(File too large"):
        here(folder)
    assert not (folder / "simulate").exists()
    left = folder / ".simulate.partial" / ".unfinished"
    assert (left / "pack000.npz").exists() == (limit > 3000)
    here(folder)
    assert kept(folder) == whole


@pytest.mark.slow
def test_work_of_another_configuration_is_not_taken_up(tmp_path, whole):
    """A state of another seed, and --resume never: both begin anew."""
    for name, resume in (("other", True), ("never", False)):
        folder = run_folder(tmp_path / name)
        with disk_of(60_000), pytest.raises(InputError, match="cannot be written"):
            here(folder)
        state = folder / ".simulate.partial" / ".unfinished" / "pack000.npz"
        work = state.with_name("work.json")
        if resume:
            write_json(work, {"format": 1, "fingerprint": "other"})
        state.write_bytes(b"never read")
        here(folder, resume=resume)
        assert kept(folder) == whole


def test_a_damaged_state_is_refused(tmp_path):
    folder = run_folder(tmp_path / "damaged")
    with disk_of(60_000), pytest.raises(InputError, match="cannot be written"):
        here(folder)
    left = folder / ".simulate.partial" / ".unfinished"
    with (left / "pack000.frames").open("r+b") as handle:
        handle.truncate(100)
    with pytest.raises(InputError, match=r"holds 0 of .* begin anew with --resume never"):
        here(folder)
    content = bytearray((left / "pack000.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (left / "pack000.npz").write_bytes(content)
    with pytest.raises(InputError, match="begin anew with --resume never"):
        here(folder)


@pytest.mark.parametrize("suffix", ["dcd", "h5"])
def test_other_formats_hold_the_same_frames(tmp_path, whole, suffix):
    folder = run_folder(tmp_path / suffix)
    for name, content in (("a", SIM), ("b", {**SIM, "format": suffix})):
        (folder / "config.yaml").write_text(yaml.safe_dump({"sim": {**content, "duration_ps": 2.0}}))
        here(folder)
        (folder / "simulate").rename(folder / name)
    pdb = next((folder / "a" / "topology").iterdir())
    paths = sorted((folder / "b" / "trajectories").iterdir())
    assert len(paths) == 3 and all(path.suffix == f".{suffix}" for path in paths)
    for path in paths:
        other = folder / "a" / "trajectories" / path.with_suffix(".xtc").name
        np.testing.assert_allclose(read_frames(path, pdb), read_frames(other, pdb), atol=6e-3)
