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
from cgrefine.cli import simulate_exchange
from cgrefine.cli.dynamics import description
from cgrefine.cli.failures import time_ps, write_failures
from cgrefine.cli.replicas import Outcome, Pack, write_outcomes
from cgrefine.cli.simulate_exchange import bath_K, by_temperature, walkers
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
    """One packed run: its end and failures; good_frames (r,); of each place, which without exchange is a
    replica: place_frames (r,), bath_K (r,) and kinetic temperature_K (r,), mean over good frames of the later
    part, else NaN; series: every so manyth record without positions; the wall time of a step."""

    pack: Pack
    ended: Ended
    failures: Sequence[Failure]
    good_frames: np.ndarray
    place_frames: np.ndarray
    bath_K: np.ndarray
    temperature_K: np.ndarray
    series: dict[str, np.ndarray]
    seconds_per_step: float


def write_results(stage: Stage, cfg: Sim, run: Settings, packs: Sequence[Pack]) -> None:
    """All that the stage keeps, of packs that have run to their end."""
    results, found = write_runs(stage.path, cfg, run, packs)
    _record(stage, cfg, run, results, found)
    more = [] if cfg.exchange is None else [_exchange(stage, cfg, run, results)]
    _write_report(stage, cfg, run, results, found, more)


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
        exchanged = [] if cfg.exchange is None else ["bath_K", "walker"]
        log(["domain", "replica", "time_ps", "potential_kcal_mol", "temperature_K", *exchanged])
        results = [_result(pack, cfg, run, log) for pack in packs]
    found = [o for result in results for o in outcomes(result, cfg)]
    write_outcomes(folder / "replicas.csv", found)
    failed = [(result.pack, told) for result in results for told in result.failures]
    write_failures(folder, failed, run, cfg)
    return results, found


def _exchange(stage: Stage, cfg: Sim, run: Settings, results: Sequence[Result]) -> Section:
    """The table of trajectories, metrics, and the section of the page."""
    places = [
        (r, g % run.rungs, kelvin, 1 + int(frames), float(kinetic))
        for result in results
        for g, (r, kelvin, frames, kinetic) in enumerate(
            zip(result.pack.replicas, result.bath_K, result.place_frames, result.temperature_K, strict=True)
        )
    ]
    simulate_exchange.write_places(stage.path / simulate_exchange.TABLE, places, cfg.format)
    tallies = [simulate_exchange.counted(result.pack, run, result.ended) for result in results]
    simulate_exchange.record(stage.record, cfg, run, tallies)
    return simulate_exchange.section(cfg, run, tallies)


def outcomes(result: Result, cfg: Sim) -> list[Outcome]:
    """What became of each replica of one pack; with exchange none has a temperature of its own."""
    found, stays = [], cfg.exchange is None
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
                temperature_K=temperature if stays and math.isfinite(temperature) else None,
                trajectory=r.file(cfg.format) if stays else "",
            )
        )
    return found


def _write_trajectories(folder: Path, pack: Pack, cfg: Sim) -> None:
    """The starting frame and the good frames of each place, and the PDB files of the domains."""
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
            for told in records.blocks(pack.frames, pack.layout, frames):
                block = by_temperature(pack, told)
                for index, g in enumerate(chosen):
                    good, (begin, end) = block["alive"][:, g], spans[g]
                    writer.write(index, block["positions"][good, begin:end], block["time_ps"][good])


def _result(pack: Pack, cfg: Sim, run: Settings, log: Log) -> Result:
    """Read the records once: rows of the log, sums, and what the figure shows."""
    end = ended(checkpoint.load_params(pack.state))
    kT = (units.KB * np.array(cfg.bath_K))[end.rung].astype(np.float32)
    late, every = math.floor(THERMALISED_FROM * end.frames), math.ceil(end.frames / POINTS)
    shown = [name for name in pack.layout.names or () if name not in ("positions", "rung")]
    good, held, used, heat = np.zeros((4, len(pack.replicas)))
    parts, first = [], 0
    for told in records.blocks(pack.frames, pack.layout, end.frames):
        block = by_temperature(pack, told)
        _write_log(log, pack, block, cfg)
        at = first + np.arange(len(block))
        use = block["alive"] & (at >= late)[:, None]
        good += told["alive"].sum(axis=0)
        held += block["alive"].sum(axis=0)
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
        place_frames=held.astype(int),
        bath_K=bath_K(cfg, pack),
        temperature_K=np.where(used > 0, heat / np.maximum(used, 1), np.nan),
        series=series,
        seconds_per_step=_seconds(series) / run.stride,
    )


def _write_log(log: Log, pack: Pack, block: np.ndarray, cfg: Sim) -> None:
    """Rows of a block by temperature; with exchange also the bath and the replica that is there."""
    there, bath = walkers(pack, block), bath_K(cfg, pack)
    for frame, holders in zip(block, there, strict=True):
        for g in np.flatnonzero(frame["alive"]):
            r = pack.replicas[int(g)]
            values = frame["time_ps"], frame["potential"][g], frame["temperature_K"][g]
            more = [] if cfg.exchange is None else [f"{bath[g]:g}", pack.replicas[int(holders[g])].index]
            log([r.domain.name, r.index, *(f"{v:.6g}" for v in values), *more])


def _seconds(series: dict[str, np.ndarray]) -> float:
    """Median wall time of a frame, those of chunks with a compilation left out where there are others."""
    seconds, compiled = series["seconds"], series["compiled"]
    return float(np.median(seconds if compiled.all() else seconds[~compiled]))


def _record(
    stage: Stage, cfg: Sim, run: Settings, results: Sequence[Result], found: Sequence[Outcome]
) -> None:
    us = 1e6 * sum(result.seconds_per_step for result in results)
    temperature = mean_and_stderr(_kinetic_K(results, cfg))
    record = stage.record
    record.metric("replicas", len(found))
    record.metric("domains", len({o.domain for o in found}))
    record.metric("duration_ps", duration_ps(cfg, run), unit="ps")
    record.metric("timestep_fs", cfg.step_fs, unit="fs")
    record.metric("packs", len(results))
    record.metric("max_kinetic_kT", cfg.criteria.max_kinetic_kT, unit="kT")
    record.metric("stable_fraction", sum(o.stable for o in found) / len(found))
    record.metric("temperature_K", temperature.value, unit="K", stderr=temperature.stderr)
    record.metric("us_per_step", us, unit="µs")
    record.metric("us_per_step_per_replica", us / len(found), unit="µs")
    record.metric("ns_per_day", 86400.0 * cfg.step_fs / us, unit="ns/day")
    record.metric("neighbor_lists_regrown", sum(result.ended.regrown for result in results))


def _kinetic_K(results: Sequence[Result], cfg: Sim, domain: str | None = None) -> np.ndarray:
    """Kinetic temperatures of the places at the temperature of the section, of one domain or all."""
    return np.array(
        [
            kinetic
            for result in results
            for r, kelvin, kinetic in zip(
                result.pack.replicas, result.bath_K, result.temperature_K, strict=True
            )
            if kelvin == cfg.temperature_K and domain in (None, r.domain.name)
        ]
    )


def duration_ps(cfg: Sim, run: Settings) -> float:
    """Length of the run, in whole frames."""
    return run.n_frames * run.stride * cfg.step_fs / 1000.0


def _write_report(
    stage: Stage,
    cfg: Sim,
    run: Settings,
    results: Sequence[Result],
    found: Sequence[Outcome],
    more: Sequence[Section],
) -> None:
    plots = _plots(results, cfg.bath_K)
    (stage.path / "figures").mkdir()
    save_plots(stage.path / "figures" / "run.png", *plots)
    names = list(dict.fromkeys(o.domain for o in found))
    per_domain = []
    for name in names:
        rows = [o for o in found if o.domain == name]
        mean = mean_and_stderr(_kinetic_K(results, cfg, name))
        per_domain.append((name, len(rows), sum(o.stable for o in rows), mean.value, mean.stderr))
    what = [told.culprit.text for result in results for told in result.failures]
    failed = [
        (o.domain, o.replica, o.failed_at_ps, o.reason, text)
        for o, text in zip([o for o in found if not o.stable], what, strict=True)
    ]
    stable = len(found) - len(failed)
    at = "" if cfg.exchange is None else f", at the rung of {cfg.temperature_K:g} K"
    text = (
        f"{stable} of {len(found)} replicas alive after {duration_ps(cfg, run):g} ps of "
        f"{description(cfg)}, started from {cfg.start} structures. Masses and friction are chosen "
        "for sampling: times are those of the model, not of the protein. Temperatures are kinetic, over "
        f"the later half of the run{at}. ns_per_day is the length of each trajectory with all packs one "
        "after the other on one device."
    )
    columns = ("domain", "replicas", "stable", "temperature, K", "standard error, K")
    sections = [
        Section("Run", text, Table(columns, per_domain), plots=plots),
        *more,
        Section(
            "Failures",
            "" if failed else "None.",
            Table(("domain", "replica", "failed at, ps", "reason", "found"), failed) if failed else None,
        ),
    ]
    write_page(stage.path / "report.html", "Simulation", sections)


def _plots(results: Sequence[Result], bath_K: Sequence[float]) -> list[Plot]:
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
             [*found["temperature_K"], *(Level(kelvin, f"set, {kelvin:g} K") for kelvin in bath_K)]),
    ]  # fmt: skip
