"""Packs of replicas: how many there are, what each is made of, and their runs on the devices of a process.

A pack's numbers depend on its members, its index and the kind of machine, and not on where or when it runs.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeVar

import jax
import numpy as np

from cgrefine import checkpoint, units
from cgrefine.cli.console import Console
from cgrefine.cli.dynamics import integrator, relaxed, with_masses
from cgrefine.cli.observe import reference_groups
from cgrefine.cli.replicas import Pack, Replica
from cgrefine.config.running import Sim
from cgrefine.errors import InputError, Interrupted
from cgrefine.interop.opened import Modelled
from cgrefine.sim import records
from cgrefine.sim.rollout import Settings, ended, rollout
from cgrefine.sim.stability import Checks, checks, reference_bond_lengths
from cgrefine.system import System, pack

MAX_BEADS = 20_000
"""Beads in one pack, so that memory is bounded; one replica or ladder of a large protein may exceed it."""

Item = TypeVar("Item")

Asked = Callable[[], int | None]
"""The signal that asks for an end, if any did."""


def n_packs(replicas: Sequence[Replica], cfg: Sim) -> int:
    """Packs of a run that begins now: sim.packs, or one for each device of this process with a replica or
    ladder for it; more where MAX_BEADS asks for it."""
    ladders = len(replicas) // cfg.rungs
    number = min(len(jax.local_devices()), ladders) if cfg.packs is None else cfg.packs
    while any(_too_large(part, cfg.rungs) for part in packs(replicas, number, cfg.rungs)):
        number += 1
    return number


def with_packs(cfg: Sim, number: int, console: Console) -> Sim:
    """The resolved section with a number of packs, which is told when there are several."""
    if number > 1:
        console.result(
            f"{cfg.replicas} replicas in {number} packs: the numbers depend on sim.packs = {number}, and not "
            "on the devices that share them"
        )
    return cfg.model_copy(update={"packs": number})


def packs(replicas: Sequence[Replica], number: int, rungs: int = 1) -> list[list[Replica]]:
    """The replicas in order, in so many parts of whole ladders, with as equal numbers of beads as cuts
    between ladders allow. number: not above that of the ladders."""
    first = np.arange(0, len(replicas), rungs)
    beads = np.add.reduceat([len(r.start) for r in replicas], first)
    middle = np.cumsum(beads) - beads / 2
    k = np.arange(1, number)
    cut = np.searchsorted(middle, beads.sum() * k / number)
    # no part is empty: at least k ladders before cut k, and one for each part behind it
    cut = k + np.maximum.accumulate(np.maximum(cut - k, 0))
    cut = np.minimum(cut, len(first) - number + k)
    ends = [0, *(rungs * cut), len(replicas)]
    return [list(replicas[a:b]) for a, b in pairwise(ends)]


def _too_large(members: Sequence[Replica], rungs: int) -> bool:
    return len(members) > rungs and sum(len(r.start) for r in members) > MAX_BEADS


def packed(replicas: Sequence[Replica], cfg: Sim) -> tuple[System, Checks]:
    """The packed graph of the replicas, and the criteria around the usual bond lengths of the reference."""
    system = with_masses(pack([r.domain.topology for r in replicas]), cfg)
    usual = {r.domain.name: r.domain for r in replicas}
    r0 = {
        name: reference_bond_lengths(
            np.concatenate(reference_groups(domain, cfg.temperature_K)[1]), domain.topology.bonds
        )
        for name, domain in usual.items()
    }
    return system, checks(system, np.concatenate([r0[r.domain.name] for r in replicas]), cfg.criteria)


def made(
    replicas: Sequence[Replica],
    force_field: Modelled,
    cfg: Sim,
    run: Settings,
    folder: Path,
    console: Console,
) -> list[Pack]:
    """The packs of a resolved section, at minimised starts where it asks for them; files in `folder`."""
    assert cfg.packs is not None
    return [
        Pack(
            index,
            relaxed(members, force_field, cfg, console),
            *packed(members, cfg),
            folder,
            run.rungs,
            run.rounds,
        )
        for index, members in enumerate(packs(replicas, cfg.packs, run.rungs))
    ]


def run_packs(
    whole: Sequence[Pack],
    force_field: Modelled,
    cfg: Sim,
    run: Settings,
    console: Console,
    asked: Asked,
) -> None:
    """Run all packs to their end, as many at a time as this process has devices.

    After a signal or an error in one of them the others end with the chunk at hand, which is written.
    """
    devices = jax.local_devices()[: len(whole)]
    chunks = sum(run.n_frames - _done(members) for members in whole) // run.chunk_frames

    def of(members: Pack) -> Iterator[None]:
        return simulate(members, force_field, cfg, run, console, asked)

    if len(devices) == 1:
        steps = (step for members in whole for step in of(members))
    else:
        steps = _side_by_side(whole, of, devices)
    for _ in console.track(steps, total=chunks, label="simulate"):
        pass


def _side_by_side(
    whole: Sequence[Item], of: Callable[[Item], Iterator[None]], devices: Sequence[Any]
) -> Iterator[None]:
    """Every step of `of` of all items, each item in a thread on the first device that is free.

    Once one raises the others end with the step at hand, and then its error is raised.
    """
    free: SimpleQueue[Any] = SimpleQueue()
    for device in devices:
        free.put(device)
    written: SimpleQueue[bool] = SimpleQueue()
    ending = Event()

    def to_its_end(members: Item) -> None:
        device = free.get()
        try:
            with jax.default_device(device):
                steps = of(members)
                while not ending.is_set() and next(steps, _END) is not _END:
                    written.put(True)
        except BaseException:  # whatever it is, it is raised once the others have ended
            ending.set()
            raise
        finally:
            free.put(device)
            written.put(False)

    with ThreadPoolExecutor(len(devices)) as threads:
        runs: list[Future[None]] = [threads.submit(to_its_end, members) for members in whole]
        running = len(runs)
        try:
            while running:
                if written.get():
                    yield
                else:
                    running -= 1
        finally:  # also when the caller stops: the threads are waited for
            ending.set()
    errors = [error for error in (run.exception() for run in runs) if error is not None]
    if errors:  # one that went wrong before one that a signal ended
        raise min(errors, key=lambda error: isinstance(error, Interrupted))


_END = object()


def simulate(
    members: Pack, force_field: Modelled, cfg: Sim, run: Settings, console: Console, asked: Asked
) -> Iterator[None]:
    """Run one pack to its end from where its files are, and yield whenever a chunk is written there.

    Raises Interrupted when a signal has asked for an end.
    """
    resume = _snapshot(members)
    done = 0 if resume is None else ended(resume).frames
    if done == run.n_frames:
        return
    if resume is not None:
        console.say(f"pack {members.index}: going on after {done} of {run.n_frames} frames")
    bath = units.KB * np.array(cfg.bath_K)
    kT = np.tile(bath, len(members.replicas) // run.rungs).astype(np.float32)
    key = jax.random.fold_in(jax.random.key(cfg.seed), members.index)
    start = np.concatenate([r.start for r in members.replicas]).astype(np.float32)
    steps = rollout(
        force_field.model, force_field.params, members.system, start, kT, key, integrator(cfg), run,
        members.limits, resume=resume,
    )  # fmt: skip
    clock, compiled = time.perf_counter(), True
    for chunk in steps:
        seconds = (time.perf_counter() - clock) / run.chunk_frames
        records.append(members.frames, members.layout, done, chunk, seconds, compiled)
        checkpoint.save_params(members.state, checkpoint.named_leaves(chunk.snapshot))
        done += run.chunk_frames
        yield
        signal = asked()
        if signal is not None:
            told = f"simulation was ended by a signal after {chunk.time_ps[-1]:g} ps, its state is written"
            raise Interrupted(signal, told)
        clock, compiled = time.perf_counter(), False


def _done(members: Pack) -> int:
    """Frames that are written."""
    resume = _snapshot(members)
    return 0 if resume is None else ended(resume).frames


def _snapshot(members: Pack) -> dict[str, np.ndarray] | None:
    """Of an interrupted run. Raises InputError when it or the frames before it are damaged."""
    if not members.state.exists():
        return None
    try:
        found = checkpoint.load_params(members.state)
    except InputError as error:
        raise InputError(f"{error}; begin anew with --resume never") from error
    records.require(members.frames, members.layout, ended(found).frames)
    return found
