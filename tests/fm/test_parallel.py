"""The same training on one device, two devices and two processes: the numbers agree, packs uneven or not."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgrefine.errors import InputError
from cgrefine.fm.lanes import n_lanes

SCRIPT = """
import json, sys
from pathlib import Path
from cgrefine import distributed
place, devices, meshes, folder = json.loads(sys.argv[1])
if place is not None:
    distributed.start(distributed.Place(*place))
import jax
from cgrefine.config.data import Loader
from cgrefine.config.training import Train
from cgrefine.data.frames import frame_set
from cgrefine.fm import checkpoints, snapshots
from cgrefine.fm.devices import mesh_of
from cgrefine.fm.train import Task, fit
from tests.fm.toy import CUTOFF, PRIOR, PRIOR_PARAMS, RADIAL, domain

assert len(jax.devices()) == devices, jax.devices()
domains = [domain(n, 24, seed=n, validation=range(6), noise=1.0) for n in (6, 9, 14)]
sets = [frame_set(domains, validation=v, cutoff_A=CUTOFF) for v in (False, True)]
task = Task(RADIAL, PRIOR, PRIOR_PARAMS, *sets)
settings = Train(epochs=8, batch_beads=40, batches_per_update=2, learning_rate=0.2, ema_decay=0.9)
begin, said = None, []
for size in meshes:
    if said:
        begin = checkpoints.found(Path(folder), task, settings, "this")
    losses, norms = [], []
    with snapshots.snapshots(Path(folder), keep=5) as manager:
        for event in fit(task, settings, Loader(buffer_frames=16), begin, mesh_of(jax.devices()[:size])):
            if event.info is not None:
                losses.append(float(event.info.loss))
                norms.append(float(event.info.gradient_norm))
            there = (event.progress.epoch, event.progress.updates) == (2, 3)
            if begin is None and event.log is None and there:
                checkpoints.write(manager, event.snapshot(), "this")
            last = event
    final = last.snapshot()
    said.append({
        "losses": losses, "norms": norms,
        "height": final.best["height"].tolist(), "average": final.state.average["height"].tolist(),
        "validation": [e.validation.model for e in last.progress.log],
        "slots": [e.slots_used for e in last.progress.log[1:]],
    })
if distributed.is_first():
    print(json.dumps(said))
"""


def run(folder, meshes, place=None, devices=2):
    """The process of a script; its result is read by `result`.

    It trains on meshes[0] devices (None: all of them), and goes on from the third update of the third epoch
    on meshes[1], if there are two. place: a process of several, each with one device.
    """
    flags = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={1 if place else devices}"
    )
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}
    task = json.dumps([place, devices, meshes, str(folder)])
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, task],
        env=environment,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process) -> Any:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-3000:]
    # gloo talks on the same stream
    said = [line for line in out.splitlines() if line.startswith("[{")]
    return json.loads(said[-1]) if said else None


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """One device takes two batches one after another; from its checkpoint on two devices go on."""
    return result(run(tmp_path_factory.mktemp("one"), [1, None]))


@pytest.fixture(scope="module")
def one(resumed):
    return resumed[0]


def close(found, expected):
    """The first gradient to 1e-5, the loss of 50 updates to 1e-4, and what is validated and saved."""
    assert len(found["losses"]) == len(expected["losses"]) > 45
    assert found["norms"][0] == pytest.approx(expected["norms"][0], rel=1e-5)
    assert np.allclose(found["losses"], expected["losses"], rtol=1e-4)
    assert np.allclose(found["height"], expected["height"], rtol=1e-3)
    assert np.allclose(found["average"], expected["average"], rtol=1e-3)
    assert np.allclose(found["validation"], expected["validation"], rtol=1e-4)
    assert np.allclose(found["slots"], expected["slots"], rtol=1e-6)


@pytest.mark.slow
def test_two_devices_are_one(one, tmp_path):
    """Beside what two processes and the run that is resumed on two devices say."""
    close(result(run(tmp_path, [None]))[0], one)


@pytest.mark.stages
def test_two_processes_are_one(one, tmp_path):
    """Joined by gloo, each with a device and a lane of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pair = [run(tmp_path, [None], place=[address, 2, index]) for index in (0, 1)]
    found = [result(process) for process in pair]
    close(found[0][0], one)
    assert found[1] is None


def test_resumed_on_another_number_of_devices(resumed):
    """What one device began two go on with: the rest of the losses is that of the one."""
    expected, rest = resumed
    begun = len(expected["losses"]) - len(rest["losses"])
    assert begun > 10
    assert np.allclose(rest["losses"], expected["losses"][begun:], rtol=1e-4)
    assert np.allclose(rest["height"], expected["height"], rtol=1e-3)


def test_devices_must_divide_the_batches():
    assert n_lanes(None, 2) == 2 and n_lanes(6, 2) == 6
    with pytest.raises(InputError, match="= 3 cannot be shared by 2 devices; allowed are multiples of 2"):
        n_lanes(3, 2)
