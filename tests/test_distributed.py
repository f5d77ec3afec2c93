"""Places of processes from the environments of schedulers, and what is said when they are wrong."""

import pytest

from cgrefine import distributed
from cgrefine.distributed import Layout, Place, host_names, place
from cgrefine.errors import InputError

STEP = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_NODELIST": "gpu[07-10]",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "2",
}
PORT = 20_000 + (16 * 123_456 + 2) % 20_000


@pytest.fixture(autouse=True)
def resolver(monkeypatch):
    """Every host has a full name in one domain."""
    monkeypatch.setattr(distributed.socket, "getfqdn", lambda host: f"{host}.cluster.example")


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("node1", ["node1"]),
        ("gpu[01-03,7],login", ["gpu01", "gpu02", "gpu03", "gpu7", "login"]),
        ("a,b[1,3-4]", ["a", "b1", "b3", "b4"]),
        ("rack[1-2]n[09-10]x", ["rack1n09x", "rack1n10x", "rack2n09x", "rack2n10x"]),
    ],
)
def test_host_names(nodes, names):
    assert host_names(nodes) == names


def test_one_process_a_gpu():
    """Four tasks on each of two nodes that show all GPUs to all: each takes its own."""
    asked = place("slurm", None, None, {**STEP, "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert asked == Place(f"gpu07.cluster.example:{PORT}", 8, 5, (1,))


def test_one_gpu_shown_to_each_process():
    """Where Slurm binds GPUs to tasks each sees one, which it takes whatever its number."""
    asked = place("slurm", None, None, {**STEP, "CUDA_VISIBLE_DEVICES": "1"})
    assert asked is not None and asked.local_devices is None


def test_one_process_a_node():
    """Two tasks on two nodes: all GPUs of the node each."""
    environment = {**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    asked = place("auto", None, None, {**environment, "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert asked == Place(f"gpu07.cluster.example:{PORT}", 2, 1, None)


def test_jobs_have_ports_of_their_own():
    ports = {
        place("slurm", None, None, {**STEP, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": step}).coordinator  # pyright: ignore[reportOptionalMemberAccess]
        for job in range(700_000, 700_100)
        for step in ("0", "1", "batch")
    }
    assert len(ports) == 200


def test_alone():
    assert place("auto", None, None, {}) is None
    assert place("auto", None, None, {**STEP, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert distributed.start(None) is None


def test_a_coordinator_by_hand():
    assert place("host:1234", 3, 2, {}) == Place("host:1234", 3, 2)
    environment = {"CGREFINE_PROCESSES": "3", "CGREFINE_PROCESS": "0"}
    assert place("host:1234", None, None, environment) == Place("host:1234", 3, 0)


@pytest.mark.parametrize(
    ("asked", "processes", "index", "message"),
    [
        ("slurm", None, None, "no Slurm job step"),
        ("host", 2, 0, "--distributed host: choose from auto, slurm, HOST:PORT"),
        ("host:1", None, 0, r"needs --processes \(or CGREFINE_PROCESSES\), a whole number; found ''"),
        ("host:1", 2, 2, "--process 2: must be from 0 to 1"),
    ],
)
def test_wrong_options_are_named(asked, processes, index, message):
    with pytest.raises(InputError, match=message):
        place(asked, processes, index, {})


def test_report():
    text = Layout(("n1", "n2"), (4, 4), "H100").text()
    assert text == "2 processes with 8 devices (H100): n1 4, n2 4"
