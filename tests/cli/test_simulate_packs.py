"""Packs of replicas: how they are cut, on two devices and on workers, with the numbers of one process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml

from cgrefine.cli import simulate_packs
from cgrefine.cli.console import Console
from cgrefine.cli.replicas import Replica
from cgrefine.cli.simulate_packs import n_packs, packs
from cgrefine.cli.stages import run_stage
from cgrefine.config import parse
from cgrefine.config.load import load_config
from cgrefine.errors import InputError, Interrupted
from tests.cli.test_simulate_resume import SIM, kept, run_folder
from tests.fm.prior_toy import prior_domain

SHORT = {**SIM, "replicas": 5, "duration_ps": 4.0, "packs": 3}
"""40 frames in 4 chunks of each of three packs."""

ON_DEVICES = """
import json, signal, sys
from pathlib import Path
import jax
from cgrefine.cli.console import Console
from cgrefine.cli.stages import run_stage
from cgrefine.config.load import load_config
from cgrefine.errors import Interrupted
from cgrefine.sim import rollout

folder, at = Path(sys.argv[1]), int(sys.argv[2])
advance, seen = rollout.advance, []

def watched(program, lengths, given, keys, progress):
    after, frames = advance(program, lengths, given, keys, progress)
    seen.append([d.id for d in after.state.positions.devices()])
    assert frames.positions.devices() == after.state.positions.devices()
    if len(seen) == at:
        signal.raise_signal(signal.SIGTERM)
    return after, frames

rollout.advance = watched
try:
    run_stage("simulate", load_config(folder / "config.yaml"), folder, Console(quiet=True))
    ended = None
except Interrupted as error:
    ended = error.number
print(json.dumps({"devices": len(jax.local_devices()), "seen": seen, "ended": ended}))
"""


def folder_of(path, **changes):
    folder, cluster = run_folder(path), changes.pop("cluster", {})
    (folder / "config.yaml").write_text(yaml.safe_dump({"sim": {**SHORT, **changes}, "cluster": cluster}))
    return folder


def on_devices(folder, devices, at=0):
    """What a process with so many devices says of its run, in which a signal comes with chunk number `at`."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_ENABLE_X64": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", ON_DEVICES, str(folder), str(at)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["devices"] == devices
    return told


def here(folder):
    run_stage("simulate", load_config(folder / "config.yaml"), folder, Console(quiet=True))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What three packs leave that ran one after the other in this process."""
    folder = folder_of(tmp_path_factory.mktemp("packs") / "one")
    here(folder)
    return kept(folder)


def metric(folder, name):
    return json.loads((folder / "simulate" / "metrics.json").read_text())["metrics"][name]


@pytest.mark.stages
def test_two_devices_have_the_numbers_of_one(tmp_path, one):
    """Both are used, and every trajectory and table is the same to the bit."""
    folder = folder_of(tmp_path / "two")
    told = on_devices(folder, 2)
    assert {device for each in told["seen"] for device in each} == {0, 1} and len(told["seen"]) == 12
    assert all(len(each) == 1 for each in told["seen"])
    assert kept(folder) == one and len(one) > 5


@pytest.mark.stages
def test_packs_are_as_many_as_the_devices_that_began(tmp_path):
    """Ended by a signal on two devices and taken up by one: two packs all the same, on other numbers than
    one pack has, and those of a section that states two."""
    folder = folder_of(tmp_path / "begun", packs=None)
    told = on_devices(folder, 2, at=3)
    assert told["ended"] == 15 and len(told["seen"]) < 8 and not (folder / "simulate").exists()
    here(folder)
    stated, single = folder_of(tmp_path / "two", packs=2), folder_of(tmp_path / "single", packs=None)
    for other in (stated, single):
        here(other)
    assert [metric(f, "packs") for f in (folder, stated, single)] == [2, 2, 1]
    assert kept(folder) == kept(stated) != kept(single)


@pytest.mark.stages
def test_workers_have_the_numbers_of_this_process(tmp_path, one, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    for cluster in ({"kind": "local", "workers": 2}, {"kind": "inline"}):
        folder = folder_of(tmp_path / cluster["kind"], on_cluster=True, cluster=cluster)
        here(folder)
        assert kept(folder) == one


@pytest.mark.stages
def test_a_failed_task_names_its_pack_and_the_others_are_kept(tmp_path, one):
    """The others run to their end, and are not run again."""
    folder = folder_of(tmp_path / "failed", on_cluster=True, cluster={"kind": "inline"})
    config, seen = load_config(folder / "config.yaml"), []
    rollout = simulate_packs.rollout

    def broken(*arguments, **options):
        seen.append(None)
        if len(seen) == 2:
            raise InputError("a start that is not there")
        return rollout(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate_packs, "rollout", broken)
        with pytest.raises(InputError, match="pack 1 of 3 failed: a start that is not there; the frames of"):
            run_stage("simulate", config, folder, Console(quiet=True))
    left = folder / ".simulate.partial" / ".unfinished"
    assert sorted(path.name for path in left.glob("*.npz")) == ["pack000.npz", "pack002.npz"]
    assert len(seen) == 3
    here(folder)
    assert kept(folder) == one


def failing(error, at):
    """`of` for packs 0, 1, 2, ... of 50 chunks, in which pack 1 fails with its chunk number `at`."""
    written = {}

    def of(pack):
        for chunk in range(50):
            if pack == 1 and chunk == at:
                raise error
            written[pack] = chunk + 1
            yield

    return of, written


@pytest.mark.parametrize("error", [OSError(28, "no room"), Interrupted(15, "asked")])
def test_an_error_in_one_pack_ends_the_others(error):
    """Nothing begins after it, and it is what is raised."""
    of, written = failing(error, 3)
    steps = simulate_packs._side_by_side(range(8), of, simulate_packs.jax.local_devices() * 2)
    with pytest.raises(type(error)):
        for _ in steps:
            pass
    assert written[1] == 3 and max(written) < 7


def test_every_chunk_of_every_pack_is_counted():
    of, written = failing(OSError(), 51)
    steps = simulate_packs._side_by_side(range(5), of, simulate_packs.jax.local_devices() * 2)
    assert sum(1 for _ in steps) == 250
    assert written == dict.fromkeys(range(5), 50)


def replicas_of(*lengths):
    return [Replica(prior_domain(n, 2, 1), k, np.zeros((n, 3))) for k, n in enumerate(lengths)]


def test_packs_have_equal_numbers_of_beads_as_far_as_cuts_allow():
    """Never an empty one, in order: by hand."""
    for lengths, number, expected in (
        ([9] * 8, 2, [4, 4]),
        ([9] * 8, 3, [3, 2, 3]),
        ([9] * 4 + [18] * 2, 2, [4, 2]),
        ([60, 6, 6, 6], 3, [1, 1, 2]),
        ([6, 6, 6, 60], 3, [2, 1, 1]),
        ([6, 9, 12], 3, [1, 1, 1]),
        ([6, 9, 12], 1, [3]),
    ):
        replicas = replicas_of(*lengths)
        cut = packs(replicas, number)
        assert [len(part) for part in cut] == expected
        assert [r for part in cut for r in part] == replicas


def test_no_more_packs_than_ladders(monkeypatch):
    """As many as devices by default, of which none is without a ladder."""
    monkeypatch.setattr(simulate_packs.jax, "local_devices", lambda: [None] * 4)
    for replicas, rungs, expected in ((9, 1, 4), (3, 1, 3), (9, 3, 3)):
        ladder = {"temperatures_K": [300.0, 315.0, 330.0]} if rungs == 3 else None
        section = {**SIM, "replicas": replicas, "temperature_K": 300.0, "exchange": ladder}
        cfg = parse({"sim": section}, "test").sim
        assert cfg is not None
        assert n_packs(replicas_of(*[9] * replicas), cfg) == expected


def test_more_packs_than_there_can_be_are_refused():
    with pytest.raises(InputError, match="packs 6: there are 5 replicas to divide, at most one a pack"):
        parse({"sim": {**SHORT, "packs": 6}}, "test")
    exchange = {"temperatures_K": [SIM["temperature_K"], SIM["temperature_K"] + 20.0]}
    with pytest.raises(InputError, match="packs 3: there are 2 ladders of 2 replicas to divide"):
        parse({"sim": {**SHORT, "replicas": 4, "packs": 3, "exchange": exchange}}, "test")
