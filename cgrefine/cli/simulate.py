"""`cgrefine simulate`: replicas of the trained force field by molecular dynamics, written as trajectories.

While it runs, the frames and a snapshot of each pack of replicas are written to the scratch folder of the
stage, chunk by chunk, and the same command goes on from there. All that is kept is made of them at the end.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from cgrefine import checkpoint, units
from cgrefine.artifacts import Stage, read_json, write_json
from cgrefine.cli.console import Console
from cgrefine.cli.dynamics import integrator, relaxed, resolved, scaled, with_masses
from cgrefine.cli.force_field import (
    opened,
    refuse_exchange_of,
    refuse_other_lengths,
    trained_at,
    write_note,
)
from cgrefine.cli.observe import reference_groups
from cgrefine.cli.replicas import Pack, Replica
from cgrefine.cli.signals import asked_to_end
from cgrefine.cli.simulate_results import write_results
from cgrefine.config.running import Sim
from cgrefine.config.schema import Config
from cgrefine.data.store import Dataset, Domain, open_dataset
from cgrefine.errors import InputError, Interrupted
from cgrefine.interop.opened import Modelled
from cgrefine.sim import records
from cgrefine.sim.rollout import Settings, ended, rollout, settings
from cgrefine.sim.stability import Checks, checks, reference_bond_lengths
from cgrefine.sim.starts import extended_chain, pdb_start, reference_starts
from cgrefine.system import System, pack

FORMAT = 2
"""Of the files in the scratch folder."""

MAX_BEADS = 20_000
"""Beads in one packed run; more replicas than fit run one pack after the other, so memory is bounded."""


def build(stage: Stage, config: Config, root: Path, console: Console, model: Path | None = None) -> None:
    """Read prepare/ and train/, or model; write trajectories, replicas.csv, log.csv and report.html.

    Goes on with an interrupted simulation of the same work. Raises Interrupted after a signal, with the state
    of the chunk at hand written.
    """
    cfg = config.sim
    assert cfg is not None
    domains = chosen_domains(open_dataset(root / "prepare"), cfg)
    if cfg.exchange is not None:
        refuse_exchange_of(root / "train" if model is None else model)
    if model is None:
        force_field = trained_at(root / "train", cfg.temperature_K, console)
    else:
        force_field = opened(model, cfg.temperature_K, console)
        refuse_other_lengths(force_field, {d.name: d.n_beads for d in domains})
    replicas = assigned(domains, cfg)
    cfg = scaled(resolved(cfg, force_field, replicas, console), replicas)
    run = run_settings(cfg, force_field)
    with asked_to_end() as asked:
        whole = run_packs(replicas, force_field, cfg, run, unfinished(stage), console, asked)
    write_results(stage, cfg, run, whole)
    if model is not None:
        write_note(stage.path, model)


def unfinished(stage: Stage) -> Path:
    """The scratch folder, with what an interrupted simulation of the same work left in it; else empty."""
    work, path = {"format": FORMAT, "fingerprint": stage.fingerprint}, stage.scratch / "work.json"
    same = path.exists() and read_json(path) == work
    for entry in stage.path.iterdir():
        if entry == stage.scratch and same:
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if not same:
        stage.scratch.mkdir()
        write_json(path, work)
    return stage.scratch


def chosen_domains(dataset: Dataset, cfg: Sim) -> list[Domain]:
    """The domains that the configuration names, or all. Raises InputError on one that is not there."""
    return list(dataset.domains) if cfg.domains is None else [dataset.domain(name) for name in cfg.domains]


def assigned(domains: Sequence[Domain], cfg: Sim) -> list[Replica]:
    """Replicas, or whole ladders of them, spread over the domains as evenly as possible, the first domains
    having one more.

    Raises InputError with fewer than domains: none is left out in silence.
    """
    several = cfg.replicas // cfg.rungs
    if several < len(domains):
        each = "one" if cfg.rungs == 1 else f"{cfg.rungs} (a ladder)"
        raise InputError(
            f"sim.replicas = {cfg.replicas}: {len(domains)} domains need {each} each; name fewer in "
            "sim.domains"
        )
    found = []
    for d, domain in enumerate(domains):
        count = cfg.rungs * (several // len(domains) + (d < several % len(domains)))
        found += [Replica(domain, r, start) for r, start in enumerate(_starts(domain, count, cfg))]
    return found


def packs(replicas: Sequence[Replica], rungs: int = 1) -> Iterator[list[Replica]]:
    """The replicas in order, cut so that none but one large protein or its ladder exceeds MAX_BEADS."""
    batch: list[Replica] = []
    for first in range(0, len(replicas), rungs):
        ladder = replicas[first : first + rungs]
        if batch and sum(len(b.start) for b in (*batch, *ladder)) > MAX_BEADS:
            yield batch
            batch = []
        batch = [*batch, *ladder]
    yield batch


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


def run_settings(cfg: Sim, force_field: Modelled) -> Settings:
    """Steps, frames and chunks of the run."""
    wanted = None if cfg.exchange is None else cfg.exchange.every_ps
    return settings(
        duration=units.from_fs(1000.0 * cfg.duration_ps),
        interval=units.from_fs(1000.0 * cfg.save_every_ps),
        dt=units.from_fs(cfg.step_fs),
        cutoff_A=force_field.model.cutoff_A,
        rungs=cfg.rungs,
        exchange_interval=None if wanted is None else units.from_fs(1000.0 * wanted),
    )


def run_packs(
    replicas: Sequence[Replica],
    force_field: Modelled,
    cfg: Sim,
    run: Settings,
    folder: Path,
    console: Console,
    asked: Callable[[], int | None],
) -> list[Pack]:
    """Minimise the starts where the section asks for it, and run all packs, with their files in `folder`."""
    whole = [
        Pack(
            index,
            relaxed(members, force_field, cfg, console),
            *packed(members, cfg),
            folder,
            run.rungs,
            run.rounds,
        )
        for index, members in enumerate(packs(replicas, run.rungs))
    ]
    for members in whole:
        simulate(members, force_field, cfg, run, console, asked)
    return whole


def simulate(
    members: Pack,
    force_field: Modelled,
    cfg: Sim,
    run: Settings,
    console: Console,
    asked: Callable[[], int | None],
) -> None:
    """Run one pack to its end from where its files are, and write them after every chunk.

    asked: the signal that asks for an end, if any did. Raises Interrupted when one has.
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
    tracked = console.track(steps, total=(run.n_frames - done) // run.chunk_frames, label="simulate")
    clock, compiled = time.perf_counter(), True
    for chunk in tracked:
        seconds = (time.perf_counter() - clock) / run.chunk_frames
        records.append(members.frames, members.layout, done, chunk, seconds, compiled)
        checkpoint.save_params(members.state, checkpoint.named_leaves(chunk.snapshot))
        done += run.chunk_frames
        signal = asked()
        if signal is not None:
            told = f"simulation was ended by a signal after {chunk.time_ps[-1]:g} ps, its state is written"
            raise Interrupted(signal, told)
        clock, compiled = time.perf_counter(), False


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


def _starts(domain: Domain, count: int, cfg: Sim) -> np.ndarray:
    if cfg.start_pdb is not None:
        return np.repeat(pdb_start(cfg.start_pdb, domain.topology)[None], count, axis=0)
    if cfg.start == "extended":
        return np.repeat(extended_chain(domain.topology.n_beads)[None], count, axis=0)
    frames = np.concatenate(reference_groups(domain, cfg.temperature_K)[1])
    return reference_starts(frames, count, cfg.seed)
