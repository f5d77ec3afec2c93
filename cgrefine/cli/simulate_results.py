"""What `cgrefine simulate` keeps: trajectories, log, failures, replicas.csv and the page, from its records.

Records are read some megabytes at a time, so memory does not grow with the length of the run.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cgrefine import checkpoint, units
from cgrefine.artifacts import Stage
from cgrefine.cli.dynamics import description
from cgrefine.cli.failures import time_ps, write_failures
from cgrefine.cli.replicas import Outcome, Pack, write_outcomes
from cgrefine.config.running import Sim
from cgrefine.report.page import Section, Table, save_plots, write_page
from cgrefine.report.plot import Axis, Band, Level, Line, Mark, Plot
from cgrefine.sim import records
from cgrefine.sim.audit import THERMALISED_FROM, mean_and_stderr
from cgrefine.sim.failures import Failure, failures
from cgrefine.sim.rollout import Ended, Settings, ended
from cgrefine.sim.trajectory import TrajectoryWriter, write_pdb
from cgrefine.status import REASONS, Status

FILES_AT_ONCE = 128
"""Trajectories written in one pass over the records: a process may hold some hundred files open."""

LOG = "log.csv"
"""Potential energy and kinetic temperature of each good frame of each replica."""

POINTS = 1000
"""Frames of a curve in the figure, at most."""


Log = Callable[[Sequence[object]], object]
"""Writes one row of the log."""


@dataclass(frozen=True)
class Result:
    """One packed run: its end and failures; good_frames (r,); temperature_K (r,), mean over good frames of
    the later part, else NaN; series: every so manyth record without positions; the wall time of a step."""

    pack: Pack
    ended: Ended
    failures: Sequence[Failure]
    good_frames: np.ndarray
    temperature_K: np.ndarray
    series: dict[str, np.ndarray]
    seconds_per_step: float


def write_results(stage: Stage, cfg: Sim, run: Settings, packs: Sequence[Pack]) -> None:
    """All that the stage keeps, of packs that have run to their end."""
    results, found = write_runs(stage.path, cfg, run, packs)
    _record(stage, cfg, run, results, found)
    _write_report(stage, cfg, run, results, found)


def write_runs(
    folder: Path, cfg: Sim, run: Settings, packs: Sequence[Pack]
) -> tuple[list[Result], list[Outcome]]:
    """trajectories/, topology/, log.csv, replicas.csv and failures/ of packs that have run to their end."""
    for name in ("trajectories", "topology"):
        (folder / name).mkdir()
    for pack in packs:
        _write_trajectories(folder, pack, cfg)
    with (folder / LOG).open("w", newline="") as handle:
        log = csv.writer(handle).writerow
        log(["domain", "replica", "time_ps", "potential_kcal_mol", "temperature_K"])
        results = [_result(pack, cfg, run, log) for pack in packs]
    found = [o for result in results for o in outcomes(result, cfg)]
    write_outcomes(folder / "replicas.csv", found)
    failed = [(result.pack.replicas[told.graph], told) for result in results for told in result.failures]
    write_failures(folder, failed, cfg)
    return results, found


def outcomes(result: Result, cfg: Sim) -> list[Outcome]:
    """What became of each replica of one pack."""
    found = []
    for g, r in enumerate(result.pack.replicas):
        status = Status(int(result.ended.status[g]))
        temperature = float(result.temperature_K[g])
        found.append(
            Outcome(
                domain=r.domain.name,
                replica=r.index,
                status=status.name,
                reason=REASONS[status],
                failed_at_ps=None if status == Status.OK else time_ps(int(result.ended.fail_step[g]), cfg),
                frames=1 + int(result.good_frames[g]),
                temperature_K=temperature if math.isfinite(temperature) else None,
                trajectory=r.file(cfg.format),
            )
        )
    return found


def _write_trajectories(folder: Path, pack: Pack, cfg: Sim) -> None:
    """The starting frame and the good frames of each replica, and the PDB files of the domains."""
    frames = ended(checkpoint.load_params(pack.state)).frames
    ends = np.cumsum([len(r.start) for r in pack.replicas])
    spans = list(zip(np.r_[0, ends], ends, strict=False))
    for r in pack.replicas:
        if r.index == 0:
            write_pdb(folder / "topology" / f"{r.domain.name}.pdb", r.domain.topology, r.start)
    for first in range(0, len(pack.replicas), FILES_AT_ONCE):
        chosen = range(first, min(first + FILES_AT_ONCE, len(pack.replicas)))
        mine = [pack.replicas[g] for g in chosen]
        paths = [folder / r.file(cfg.format) for r in mine]
        with TrajectoryWriter(paths, [r.domain.topology for r in mine]) as writer:
            for index, r in enumerate(mine):
                writer.write(index, r.start[None], np.zeros(1))
            for block in records.blocks(pack.frames, pack.layout, frames):
                for index, g in enumerate(chosen):
                    good, (begin, end) = block["alive"][:, g], spans[g]
                    writer.write(index, block["positions"][good, begin:end], block["time_ps"][good])


def _result(pack: Pack, cfg: Sim, run: Settings, log: Log) -> Result:
    """Read the records once: rows of the log, sums, and what the figure shows."""
    end = ended(checkpoint.load_params(pack.state))
    kT = np.full(len(pack.replicas), units.thermal_energy(cfg.temperature_K), np.float32)
    late, every = math.floor(THERMALISED_FROM * end.frames), math.ceil(end.frames / POINTS)
    shown = [name for name in pack.layout.names or () if name != "positions"]
    good, used, heat = np.zeros((3, len(pack.replicas)))
    parts, first = [], 0
    for block in records.blocks(pack.frames, pack.layout, end.frames):
        _write_log(log, pack, block)
        at = first + np.arange(len(block))
        use = block["alive"] & (at >= late)[:, None]
        good += block["alive"].sum(axis=0)
        used += use.sum(axis=0)
        heat += np.where(use, block["temperature_K"], 0.0).sum(axis=0, dtype=np.float64)
        parts.append({name: block[name][at % every == 0] for name in shown})
        first += len(block)
    series = {name: np.concatenate([part[name] for part in parts]) for name in shown}
    return Result(
        pack=pack,
        ended=end,
        failures=failures(end, pack.limits, pack.system, kT),
        good_frames=good.astype(int),
        temperature_K=np.where(used > 0, heat / np.maximum(used, 1), np.nan),
        series=series,
        seconds_per_step=_seconds(series) / run.stride,
    )


def _write_log(log: Log, pack: Pack, block: np.ndarray) -> None:
    for frame in block:
        for g in np.flatnonzero(frame["alive"]):
            r = pack.replicas[int(g)]
            values = frame["time_ps"], frame["potential"][g], frame["temperature_K"][g]
            log([r.domain.name, r.index, *(f"{v:.6g}" for v in values)])


def _seconds(series: dict[str, np.ndarray]) -> float:
    """Median wall time of a frame, those of chunks with a compilation left out where there are others."""
    seconds, compiled = series["seconds"], series["compiled"]
    return float(np.median(seconds if compiled.all() else seconds[~compiled]))


def _record(
    stage: Stage, cfg: Sim, run: Settings, results: Sequence[Result], found: Sequence[Outcome]
) -> None:
    us = 1e6 * sum(result.seconds_per_step for result in results)
    temperature = mean_and_stderr(np.array([o.temperature_K for o in found], float))
    record = stage.record
    record.metric("replicas", len(found))
    record.metric("domains", len({o.domain for o in found}))
    record.metric("duration_ps", duration_ps(cfg, run), unit="ps")
    record.metric("timestep_fs", cfg.step_fs, unit="fs")
    record.metric("max_kinetic_kT", cfg.criteria.max_kinetic_kT, unit="kT")
    record.metric("stable_fraction", sum(o.stable for o in found) / len(found))
    record.metric("temperature_K", temperature.value, unit="K", stderr=temperature.stderr)
    record.metric("us_per_step", us, unit="µs")
    record.metric("us_per_step_per_replica", us / len(found), unit="µs")
    record.metric("ns_per_day", 86400.0 * cfg.step_fs / us, unit="ns/day")
    record.metric("neighbor_lists_regrown", sum(result.ended.regrown for result in results))


def duration_ps(cfg: Sim, run: Settings) -> float:
    """Length of the run, in whole frames."""
    return run.n_frames * run.stride * cfg.step_fs / 1000.0


def _write_report(
    stage: Stage, cfg: Sim, run: Settings, results: Sequence[Result], found: Sequence[Outcome]
) -> None:
    plots = _plots(results, cfg.temperature_K)
    (stage.path / "figures").mkdir()
    save_plots(stage.path / "figures" / "run.png", *plots)
    names = list(dict.fromkeys(o.domain for o in found))
    per_domain = []
    for name in names:
        rows = [o for o in found if o.domain == name]
        mean = mean_and_stderr(np.array([o.temperature_K for o in rows], float))
        per_domain.append((name, len(rows), sum(o.stable for o in rows), mean.value, mean.stderr))
    what = [told.culprit.text for result in results for told in result.failures]
    failed = [
        (o.domain, o.replica, o.failed_at_ps, o.reason, text)
        for o, text in zip([o for o in found if not o.stable], what, strict=True)
    ]
    stable = len(found) - len(failed)
    text = (
        f"{stable} of {len(found)} replicas alive after {duration_ps(cfg, run):g} ps of "
        f"{description(cfg)}, started from {cfg.start} structures. Masses and friction are chosen "
        "for sampling: times are those of the model, not of the protein. Temperatures are kinetic, over "
        "the later half of the run. ns_per_day is the length of each trajectory with all running together."
    )
    columns = ("domain", "replicas", "stable", "temperature, K", "standard error, K")
    sections = [
        Section("Run", text, Table(columns, per_domain), plots=plots),
        Section(
            "Failures",
            "" if failed else "None.",
            Table(("domain", "replica", "failed at, ps", "reason", "found"), failed) if failed else None,
        ),
    ]
    write_page(stage.path / "report.html", "Simulation", sections)


def _plots(results: Sequence[Result], temperature_K: float) -> list[Plot]:
    """Potential energy and kinetic temperature of each domain: median and range of its living replicas."""
    found: dict[str, list[Mark]] = {"potential": [], "temperature_K": []}
    for result in results:
        names = np.array([r.domain.name for r in result.pack.replicas])
        for name in dict.fromkeys(names.tolist()):
            alive = result.series["alive"][:, names == name]
            some = alive.any(axis=1)
            time_ps = result.series["time_ps"][some]
            for kind, marks in found.items():
                values = np.where(alive, result.series[kind][:, names == name], np.nan)[some]
                marks.append(Line(time_ps, np.nanmedian(values, axis=1), name))
                marks.append(Band(time_ps, np.nanmin(values, axis=1), np.nanmax(values, axis=1)))
    time = Axis("time, ps")
    return [
        Plot("Potential energy: median and range of the living replicas", time,
             Axis("potential energy, kcal/mol"), found["potential"]),
        Plot("Kinetic temperature: median and range of the living replicas", time,
             Axis("kinetic temperature, K"),
             [*found["temperature_K"], Level(temperature_K, f"set, {temperature_K:g} K")]),
    ]  # fmt: skip
