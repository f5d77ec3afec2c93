"""`cgrefine simulate`: replicas of the trained force field by molecular dynamics, written as trajectories.

While it runs, the frames and a snapshot of each pack of replicas are written to the scratch folder of the
stage, chunk by chunk, and the same command goes on from there. All that is kept is made of them at the end.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cgrefine import units
from cgrefine.artifacts import Stage, read_json, write_json
from cgrefine.cli.console import Console
from cgrefine.cli.dynamics import resolved, scaled
from cgrefine.cli.force_field import (
    opened,
    refuse_exchange_of,
    trained_at,
    write_note,
)
from cgrefine.cli.observe import reference_groups
from cgrefine.cli.replicas import Replica
from cgrefine.cli.signals import asked_to_end
from cgrefine.cli.simulate_packs import made, n_packs, run_packs, with_packs
from cgrefine.cli.simulate_results import write_results
from cgrefine.cli.simulate_tasks import run_tasks
from cgrefine.config.running import Sim
from cgrefine.config.schema import Config
from cgrefine.data.store import Dataset, Domain, open_dataset
from cgrefine.errors import InputError
from cgrefine.interop.opened import Modelled
from cgrefine.sim.rollout import Settings, settings
from cgrefine.sim.starts import extended_chain, pdb_start, reference_starts

FORMAT = 3
"""Of the files in the scratch folder."""

CHUNK_FRAMES = 10
"""Frames of a chunk at most, after which the state is written."""


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
    replicas = assigned(domains, cfg)
    cfg = scaled(resolved(cfg, force_field, replicas, console), replicas)
    run = run_settings(cfg, force_field)
    cfg = with_packs(cfg, unfinished(stage, n_packs(replicas, cfg)), console)
    whole = made(replicas, force_field, cfg, run, stage.scratch, console)
    if cfg.on_cluster:
        run_tasks(whole, model or root / "train", root / "prepare", cfg, run, config.cluster, console)
    else:
        with asked_to_end() as asked:
            run_packs(whole, force_field, cfg, run, console, asked)
    write_results(stage, cfg, run, whole)
    if model is not None:
        write_note(stage.path, model)


def unfinished(stage: Stage, packs: int, pieces: bool = False) -> int:
    """Clear the stage folder, but for what an interrupted run of the same work left in the scratch folder;
    return the number of packs that one was begun with, else `packs`. pieces: outside of the scratch folder,
    finished ones of the same work stay too."""
    work, path = {"format": FORMAT, "fingerprint": stage.fingerprint}, stage.scratch / "work.json"
    found = read_json(path) if path.exists() else {}
    same = work == {name: found.get(name) for name in work}
    for entry in stage.path.iterdir():
        if same and (pieces or entry == stage.scratch):
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if same:
        return found["packs"]
    stage.scratch.mkdir()
    write_json(path, {**work, "packs": packs})
    return packs


def chosen_domains(dataset: Dataset, cfg: Sim) -> list[Domain]:
    """The domains that the configuration names, or all. Raises InputError on one that is not there."""
    return list(dataset.domains) if cfg.domains is None else [dataset.domain(name) for name in cfg.domains]


def assigned(
    domains: Sequence[Domain], cfg: Sim, validation: bool | None = None, key: str = "sim.replicas"
) -> list[Replica]:
    """Replicas, or whole ladders of them, spread over the domains as evenly as possible, the first domains
    having one more. validation: starts that are reference frames are of that part of the data alone. key:
    where the number of replicas is configured.

    Raises InputError with fewer than domains: none is left out in silence.
    """
    several = cfg.replicas // cfg.rungs
    if several < len(domains):
        each = "one" if cfg.rungs == 1 else f"{cfg.rungs} (a ladder)"
        raise InputError(
            f"{key} = {cfg.replicas}: {len(domains)} domains need {each} each; name fewer in sim.domains"
        )
    found = []
    for d, domain in enumerate(domains):
        count = cfg.rungs * (several // len(domains) + (d < several % len(domains)))
        found += [
            Replica(domain, r, start) for r, start in enumerate(_starts(domain, count, cfg, validation))
        ]
    return found


def run_settings(cfg: Sim, force_field: Modelled, max_chunk_frames: int = CHUNK_FRAMES) -> Settings:
    """Steps, frames and chunks of the run."""
    wanted = None if cfg.exchange is None else cfg.exchange.every_ps
    return settings(
        duration=units.from_fs(1000.0 * cfg.duration_ps),
        interval=units.from_fs(1000.0 * cfg.save_every_ps),
        dt=units.from_fs(cfg.step_fs),
        cutoff_A=force_field.model.cutoff_A,
        max_chunk_frames=max_chunk_frames,
        rungs=cfg.rungs,
        exchange_interval=None if wanted is None else units.from_fs(1000.0 * wanted),
    )


def _starts(domain: Domain, count: int, cfg: Sim, validation: bool | None) -> np.ndarray:
    if cfg.start_pdb is not None:
        return np.repeat(pdb_start(cfg.start_pdb, domain.topology)[None], count, axis=0)
    if cfg.start == "extended":
        return np.repeat(extended_chain(domain.topology.n_beads)[None], count, axis=0)
    frames = np.concatenate(reference_groups(domain, cfg.temperature_K, validation)[1])
    return reference_starts(frames, count, cfg.seed)
