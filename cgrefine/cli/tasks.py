"""Independent pieces of work, one a protein, on the machine or cluster that the configuration names.

A task is a function of one item that can be imported by name. What goes wrong in it is a value: wrong
input is not tried again, a lost worker or file system is, and the rest goes on.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from cgrefine.config.data import Cluster
from cgrefine.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECT_TIMEOUT_S = 30

START_TIMEOUT_S = 600
"""How long the first worker may take to come: jobs wait in queues, but not for ever."""


class Failure(NamedTuple):
    """A task that did not succeed. reason: one sentence. wrong_input: whether trying again is useless."""

    reason: str
    wrong_input: bool


Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[tuple[int, Any]]]
"""run(function, items) yields (index of the item, its result or Failure), as they end."""


def guarded(function: Callable[[Item], Result], item: Item) -> Result | Failure:
    """function(item), with wrong input as a Failure; other exceptions pass, so that they are tried again."""
    try:
        return function(item)
    except InputError as error:
        return Failure(str(error), True)


@contextmanager
def pool(cluster: Cluster, most: int) -> Iterator[Run]:
    """Yield `run` for the cluster of the configuration, with at most `most` workers.

    Raises InputError when the scheduler cannot be reached or no worker comes.
    """
    if cluster.kind == "inline":
        yield lambda function, items: _one_by_one(function, items, cluster.retries)
        return
    from dask import config
    from dask.distributed import Client

    with (
        config.set({"distributed.scheduler.allowed-failures": cluster.retries}),
        _cluster(cluster, most) as address,
        _connected(Client, address) as client,
    ):
        _wait_for_a_worker(client, cluster)
        yield lambda function, items: _on_workers(client, function, items, cluster.retries)


def n_workers(cluster: Cluster, most: int) -> int:
    """Workers to start: as configured, or one a core of this machine's share, never more than `most`."""
    return max(1, min(cluster.workers or len(os.sched_getaffinity(0)), most))


def _one_by_one(
    function: Callable[[Item], Result], items: Sequence[Item], retries: int
) -> Iterator[tuple[int, Result | Failure]]:
    for index, item in enumerate(items):
        for left in reversed(range(retries + 1)):
            try:
                yield index, guarded(function, item)
                break
            except Exception as error:
                if not left:
                    yield index, _lost(error)


def _on_workers(
    client: Any, function: Callable[[Item], Result], items: Sequence[Item], retries: int
) -> Iterator[tuple[int, Result | Failure]]:
    from dask.distributed import as_completed

    futures = {
        client.submit(guarded, function, item, pure=False, retries=retries): index
        for index, item in enumerate(items)
    }
    for future in as_completed(list(futures)):
        if future.status == "finished":
            result = future.result()
        else:
            error = future.exception()
            result = _lost(error if error is not None else RuntimeError(f"the task was {future.status}"))
        yield futures.pop(future), result
        future.release()


def _lost(error: BaseException) -> Failure:
    if type(error).__name__ == "KilledWorker":
        return Failure(
            "the worker process died each time it was tried; out of memory is the usual cause", False
        )
    return Failure(f"{type(error).__name__}: {' '.join(str(error).split())}", False)


@contextmanager
def _cluster(cluster: Cluster, most: int) -> Iterator[Any]:
    """An address, or a cluster object that is closed at the end."""
    if cluster.kind == "scheduler":
        yield cluster.address
        return
    with _local(cluster, most) if cluster.kind == "local" else slurm(cluster) as started:
        if cluster.kind == "slurm":
            started.scale(jobs=max(1, min(cluster.workers or 1, most)))
        yield started


@contextmanager
def _connected(client: Any, address: Any) -> Iterator[Any]:
    try:
        opened = client(address, timeout=CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cluster.address = {address!r}: no dask scheduler answers there ({error}); start one by "
            "`dask scheduler`"
        ) from error
    with opened:
        yield opened


def _local(cluster: Cluster, most: int) -> Any:
    """Processes of this machine, one thread each: the BLAS of a worker uses one core."""
    from dask.distributed import LocalCluster

    return LocalCluster(
        n_workers=n_workers(cluster, most),
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",  # any free port: two may run on one machine
        silence_logs=logging.CRITICAL,  # failures are told once, by us
    )


def slurm(cluster: Cluster) -> Any:
    """A dask-jobqueue cluster without jobs yet: `scale` submits them. Raises InputError without the extra."""
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ModuleNotFoundError as error:
        raise InputError(
            'cluster.kind = slurm needs dask-jobqueue, which is not installed: pip install "cgrefine[slurm]"'
        ) from error
    facts = cluster.slurm
    return SLURMCluster(
        queue=facts.queue,
        account=facts.account,
        cores=facts.cores,
        processes=facts.cores,
        memory=facts.memory,
        walltime=facts.walltime,
        job_extra_directives=facts.extra,
        scheduler_options={"dashboard_address": ":0"},
    )


def _wait_for_a_worker(client: Any, cluster: Cluster) -> None:
    try:
        client.wait_for_workers(1, timeout=START_TIMEOUT_S)
    except TimeoutError as error:
        raise InputError(
            f"cluster.kind = {cluster.kind}: no worker came within {START_TIMEOUT_S} s; look at the queue "
            "and the jobs' output"
        ) from error
