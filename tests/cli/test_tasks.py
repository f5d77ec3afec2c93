"""Tasks inline and on workers: results by index, wrong input told once, other faults tried again."""

import os
from pathlib import Path

import pytest
from dask.distributed import LocalCluster

from cgrefine.cli.tasks import Failure, n_workers, pool, slurm
from cgrefine.config.data import Cluster, Slurm
from cgrefine.errors import InputError


def work(item):
    """Squares; notes each try in a file; some items go wrong in their own way."""
    folder, number = item
    with (Path(folder) / str(number)).open("a") as log:
        log.write("x")
    tries = len((Path(folder) / str(number)).read_text())
    if number == 2:
        raise InputError("two is not allowed")
    if number == 3 and tries < 2:
        raise OSError("stale file handle")
    if number == 4:
        raise OSError("disk is gone")
    return number**2


def results(cluster, tmp_path):
    with pool(cluster, 5) as run:
        found = dict(run(work, [(str(tmp_path), n) for n in range(5)]))
    tries = {n: len((tmp_path / str(n)).read_text()) for n in range(5)}
    return found, tries


@pytest.mark.parametrize("kind", ["inline", "local"])
def test_results_and_failures(kind, tmp_path):
    found, tries = results(Cluster(kind=kind, workers=1, retries=1), tmp_path)
    assert [found[n] for n in (0, 1, 3)] == [0, 1, 9]
    assert found[2] == Failure("two is not allowed", True)
    assert found[4] == Failure("OSError: disk is gone", False)
    assert tries == {0: 1, 1: 1, 2: 1, 3: 2, 4: 2}


def die(item):
    os._exit(1)


def test_a_worker_that_dies_is_a_failure():
    with pool(Cluster(kind="local", workers=1, retries=0), 1) as run:
        ((_, failure),) = run(die, [0])
    assert isinstance(failure, Failure) and "worker process died" in failure.reason


def test_no_more_workers_than_work():
    assert n_workers(Cluster(workers=8), 3) == 3 and n_workers(Cluster(workers=2), 3) == 2
    assert n_workers(Cluster(), 10**6) == len(os.sched_getaffinity(0))


def test_unknown_scheduler_is_named(monkeypatch):
    monkeypatch.setattr("cgrefine.cli.tasks.CONNECT_TIMEOUT_S", 1)
    address = "tcp://127.0.0.1:9"
    with (
        pytest.raises(InputError, match=r"cluster\.address = 'tcp://127\.0\.0\.1:9': no dask scheduler"),
        pool(Cluster(kind="scheduler", address=address), 1) as run,
    ):
        list(run(work, []))


def test_a_running_scheduler_is_used(tmp_path):
    running = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
    with running:
        address = running.scheduler_address
        found, _ = results(Cluster(kind="scheduler", address=address, retries=0), tmp_path)
    assert found[1] == 1 and found[2] == Failure("two is not allowed", True)


def test_slurm_jobs_ask_for_what_is_configured():
    cluster = Cluster(
        kind="slurm",
        workers=3,
        slurm=Slurm(queue="cpu", cores=2, memory="8GB", walltime="01:30:00", extra=["--qos=low"]),
    )
    started = slurm(cluster)
    try:
        script = started.job_script()
    finally:
        started.close()
    for line in ("-p cpu", "--cpus-per-task=2", "--mem=8G", "-t 01:30:00", "--qos=low"):
        assert f"#SBATCH {line}" in script
    assert "--nworkers 2" in script and "--nthreads 1" in script
