"""Packs of replicas as tasks on the cluster of the configuration, their files on the file system that all
of it shares."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgrefine.cli.console import Console
from cgrefine.cli.replicas import Pack, Replica
from cgrefine.cli.simulate_packs import packed, simulate
from cgrefine.cli.tasks import Failure, pool
from cgrefine.config.data import Cluster
from cgrefine.config.running import Sim
from cgrefine.data.store import open_dataset
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.fm.forcefield import ForceField
from cgrefine.interop.opened import opened
from cgrefine.sim.rollout import Settings


class Task(NamedTuple):
    """One pack. model, data: folders of the force field and the data set; cfg: resolved; folder: of the
    pack's files; members: domain, number and start (n, 3) Å of each replica."""

    model: Path
    data: Path
    cfg: Sim
    run: Settings
    folder: Path
    index: int
    members: Sequence[tuple[str, int, np.ndarray]]


def run_tasks(
    whole: Sequence[Pack],
    model: Path,
    data: Path,
    cfg: Sim,
    run: Settings,
    cluster: Cluster,
    console: Console,
) -> None:
    """Run all packs to their end, each as a task. Raises InputError, after the last, when any failed."""
    tasks = [
        Task(
            model.resolve(),
            data.resolve(),
            cfg,
            run,
            members.folder.resolve(),
            members.index,
            [(r.domain.name, r.index, np.asarray(r.start)) for r in members.replicas],
        )
        for members in whole
    ]
    with pool(cluster, len(tasks)) as submit:
        results = console.track(submit(run_task, tasks), total=len(tasks), label="simulate, packs")
        failed = {index: result for index, result in results if isinstance(result, Failure)}
    if failed:
        first = min(failed)
        told = "" if len(failed) == 1 else f" (and {len(failed) - 1} more)"
        raise InputError(
            f"simulate: pack {first} of {len(tasks)}{told} failed: {failed[first].reason}; the frames of the "
            "others are kept, and the same command goes on from them"
        )


def run_task(task: Task) -> None:
    """Run a pack to its end, or as far as its process lives; frames that are written are not run again."""
    force_field = opened(task.model)
    if isinstance(force_field, ForceField):
        force_field = forcefield.at_temperature(force_field, task.cfg.temperature_K)
    dataset = open_dataset(task.data)
    replicas = [Replica(dataset.domain(name), index, start) for name, index, start in task.members]
    members = Pack(
        task.index,
        replicas,
        *packed(replicas, task.cfg),
        task.folder,
        task.run.rungs,
        task.run.rounds,
    )
    for _ in simulate(members, force_field, task.cfg, task.run, Console(quiet=True), lambda: None):
        pass
