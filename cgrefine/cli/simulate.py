"""`cgrefine simulate`: replicas of the trained force field by Langevin dynamics, written as trajectories."""

import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from cgrefine import units
from cgrefine.artifacts import Stage
from cgrefine.cli.console import Console
from cgrefine.cli.force_field import opened, refuse_other_lengths, trained_at, write_note
from cgrefine.cli.observe import reference_groups
from cgrefine.config.running import Criteria, Sim
from cgrefine.config.schema import Config
from cgrefine.data.store import Dataset, Domain, open_dataset
from cgrefine.errors import InputError
from cgrefine.interop.opened import Modelled
from cgrefine.report.page import Section, Table, figure, save_figure, write_page
from cgrefine.sim.audit import mean_and_stderr, thermalised_means
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.rollout import Chunk, Settings, rollout, settings
from cgrefine.sim.stability import Checks, checks, reference_bond_lengths
from cgrefine.sim.starts import extended_chain, reference_starts
from cgrefine.sim.trajectory import TrajectoryWriter, write_pdb
from cgrefine.status import REASONS, Status
from cgrefine.system import System, pack

MAX_BEADS = 20_000
"""Beads in one packed run; more replicas than fit run one pack after the other, so memory is bounded."""


@dataclass(frozen=True)
class Outcome:
    """One replica of one domain, a row of replicas.csv. failed_at_ps, temperature_K: None when there is none.

    frames: in the trajectory, the starting frame among them. temperature_K: kinetic, later half of the run.
    """

    domain: str
    replica: int
    status: str
    reason: str
    failed_at_ps: float | None
    frames: int
    temperature_K: float | None
    trajectory: str

    @property
    def stable(self) -> bool:
        """Alive at the end."""
        return self.status == Status.OK.name


@dataclass(frozen=True)
class Replica:
    """What is to be run: a domain, the number of the replica in it, and its start (n, 3) Å."""

    domain: Domain
    index: int
    start: np.ndarray

    def file(self, suffix: str) -> str:
        """Name of its trajectory below the stage folder."""
        return f"trajectories/{self.domain.name}_r{self.index:03d}.{suffix}"


@dataclass(frozen=True)
class Result:
    """One packed run: replicas, chunks without positions, and the wall time of a step."""

    replicas: Sequence[Replica]
    time_ps: np.ndarray
    potential: np.ndarray
    temperature_K: np.ndarray
    alive: np.ndarray
    status: np.ndarray
    fail_step: np.ndarray
    regrown: int
    seconds_per_step: float


def build(stage: Stage, config: Config, root: Path, console: Console, model: Path | None = None) -> None:
    """Read prepare/ and train/, or model; write trajectories, replicas.csv, log.csv and report.html."""
    cfg = config.sim
    assert cfg is not None
    domains = chosen_domains(open_dataset(root / "prepare"), cfg)
    if model is None:
        force_field = trained_at(root / "train", cfg.temperature_K, console)
    else:
        force_field = opened(model, cfg.temperature_K, console)
        refuse_other_lengths(force_field, {d.name: d.n_beads for d in domains})
        write_note(stage.path, model)
    replicas = assigned(domains, cfg)
    run = run_settings(cfg, force_field)
    (stage.path / "trajectories").mkdir()
    (stage.path / "topology").mkdir()
    for r in replicas:
        if r.index == 0:
            write_pdb(stage.path / "topology" / f"{r.domain.name}.pdb", r.domain.topology, r.start)
    results = [
        simulate(pack_of, force_field, cfg, run, stage.path, seed, console)
        for seed, pack_of in enumerate(packs(replicas))
    ]
    found = [o for result in results for o in outcomes(result, cfg)]
    write_outcomes(stage.path / "replicas.csv", found)
    _write_log(stage.path / "log.csv", results)
    _record(stage, cfg, run, results, found)
    _write_report(stage, cfg, run, results, found)


def chosen_domains(dataset: Dataset, cfg: Sim) -> list[Domain]:
    """The domains that the configuration names, or all. Raises InputError on one that is not there."""
    return list(dataset.domains) if cfg.domains is None else [dataset.domain(name) for name in cfg.domains]


def assigned(domains: Sequence[Domain], cfg: Sim) -> list[Replica]:
    """Replicas spread over the domains as evenly as possible, the first domains having one more.

    Raises InputError with fewer replicas than domains: none is left out in silence.
    """
    if cfg.replicas < len(domains):
        raise InputError(
            f"sim.replicas = {cfg.replicas}: {len(domains)} domains need one each; name fewer in sim.domains"
        )
    found = []
    for d, domain in enumerate(domains):
        count = cfg.replicas // len(domains) + (d < cfg.replicas % len(domains))
        found += [Replica(domain, r, start) for r, start in enumerate(_starts(domain, count, cfg))]
    return found


def packs(replicas: Sequence[Replica]) -> Iterator[list[Replica]]:
    """The replicas in order, cut so that none but a single large protein exceeds MAX_BEADS."""
    batch: list[Replica] = []
    for r in replicas:
        if batch and sum(len(b.start) for b in (*batch, r)) > MAX_BEADS:
            yield batch
            batch = []
        batch.append(r)
    yield batch


def packed(replicas: Sequence[Replica], criteria: Criteria, temperature_K: float) -> tuple[System, Checks]:
    """The packed graph of the replicas, and the criteria around the usual bond lengths of the reference."""
    system = pack([r.domain.topology for r in replicas])
    usual = {r.domain.name: r.domain for r in replicas}
    r0 = {
        name: reference_bond_lengths(
            np.concatenate(reference_groups(domain, temperature_K)[1]), domain.topology.bonds
        )
        for name, domain in usual.items()
    }
    return system, checks(system, np.concatenate([r0[r.domain.name] for r in replicas]), criteria)


def run_settings(cfg: Sim, force_field: Modelled) -> Settings:
    """Steps, frames and chunks of the run."""
    return settings(
        duration=units.from_fs(1000.0 * cfg.duration_ps),
        interval=units.from_fs(1000.0 * cfg.save_every_ps),
        dt=units.from_fs(cfg.timestep_fs),
        cutoff_A=force_field.model.cutoff_A,
    )


def simulate(
    replicas: Sequence[Replica],
    force_field: Modelled,
    cfg: Sim,
    run: Settings,
    folder: Path,
    pack_index: int,
    console: Console,
) -> Result:
    """Run one pack and write its trajectories as it goes."""
    system, limits = packed(replicas, cfg.criteria, cfg.temperature_K)
    kT = np.full(len(replicas), units.thermal_energy(cfg.temperature_K), np.float32)
    key = jax.random.fold_in(jax.random.key(cfg.seed), pack_index)
    integrator = Langevin(units.from_fs(cfg.timestep_fs), units.from_per_ps(cfg.friction_per_ps))
    start = np.concatenate([r.start for r in replicas]).astype(np.float32)
    steps = rollout(force_field.model, force_field.params, system, start, kT, key, integrator, run, limits)
    tracked = console.track(steps, total=run.n_frames // run.chunk_frames, label="simulate")
    with TrajectoryWriter([folder / r.file(cfg.format) for r in replicas]) as writer:
        for index, r in enumerate(replicas):
            writer.write(index, r.start[None], np.zeros(1))
        chunks, seconds = _written(tracked, writer, system)
    return Result(
        replicas=replicas,
        time_ps=np.concatenate([c.time_ps for c in chunks]),
        potential=np.concatenate([c.potential for c in chunks]),
        temperature_K=np.concatenate([c.temperature_K for c in chunks]),
        alive=np.concatenate([c.alive for c in chunks]),
        status=chunks[-1].status,
        fail_step=chunks[-1].fail_step,
        regrown=chunks[-1].regrown,
        seconds_per_step=float(np.median(seconds[1:] or seconds)) / (run.stride * run.chunk_frames),
    )


def outcomes(result: Result, cfg: Sim) -> list[Outcome]:
    """What became of each replica of one pack."""
    temperature = thermalised_means(result.temperature_K, result.alive)
    found = []
    for g, r in enumerate(result.replicas):
        status = Status(int(result.status[g]))
        step = int(result.fail_step[g])
        found.append(
            Outcome(
                domain=r.domain.name,
                replica=r.index,
                status=status.name,
                reason=REASONS[status],
                failed_at_ps=None if step < 0 else round(step * cfg.timestep_fs / 1000.0, 6),
                frames=1 + int(result.alive[:, g].sum()),
                temperature_K=float(temperature[g]) if np.isfinite(temperature[g]) else None,
                trajectory=r.file(cfg.format),
            )
        )
    return found


def write_outcomes(path: Path, found: Sequence[Outcome]) -> None:
    """replicas.csv: one row a replica; None is an empty cell."""
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [f.name for f in fields(Outcome)])
        writer.writeheader()
        writer.writerows(asdict(o) for o in found)


def read_outcomes(path: Path) -> list[Outcome]:
    """Inverse of `write_outcomes`. Raises InputError when the file is not such a table."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    try:
        with path.open(newline="") as handle:
            return [
                Outcome(
                    row["domain"], int(row["replica"]), row["status"], row["reason"],
                    number(row["failed_at_ps"]), int(row["frames"]), number(row["temperature_K"]),
                    row["trajectory"],
                )
                for row in csv.DictReader(handle)
            ]  # fmt: skip
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: not a table of replicas ({error!r}); run `cgrefine simulate` again"
        ) from error


def _starts(domain: Domain, count: int, cfg: Sim) -> np.ndarray:
    if cfg.start == "extended":
        return np.repeat(extended_chain(domain.topology.n_beads)[None], count, axis=0)
    frames = np.concatenate(reference_groups(domain, cfg.temperature_K)[1])
    return reference_starts(frames, count, cfg.seed)


def _written(
    chunks: Iterator[Chunk], writer: TrajectoryWriter, system: System
) -> tuple[list[Chunk], list[float]]:
    """Write the good frames of each chunk; the chunks without positions, and the wall time of each."""
    ends = np.cumsum(np.bincount(system.graph_id))
    kept, seconds = [], []
    clock = time.perf_counter()
    for chunk in chunks:
        seconds.append(time.perf_counter() - clock)
        for g, (first, last) in enumerate(zip(np.r_[0, ends], ends, strict=False)):
            good = chunk.alive[:, g]
            writer.write(g, chunk.positions[good, first:last], chunk.time_ps[good])
        kept.append(chunk._replace(positions=np.zeros((0, 0, 3), np.float32)))
        clock = time.perf_counter()
    return kept, seconds


def _write_log(path: Path, results: Sequence[Result]) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["domain", "replica", "time_ps", "potential_kcal_mol", "temperature_K"])
        for result in results:
            for g, r in enumerate(result.replicas):
                for s in np.flatnonzero(result.alive[:, g]):
                    values = result.time_ps[s], result.potential[s, g], result.temperature_K[s, g]
                    writer.writerow([r.domain.name, r.index, *(f"{v:.6g}" for v in values)])


def _record(
    stage: Stage, cfg: Sim, run: Settings, results: Sequence[Result], found: Sequence[Outcome]
) -> None:
    us = 1e6 * sum(result.seconds_per_step for result in results)
    temperature = mean_and_stderr(np.array([o.temperature_K for o in found], float))
    record = stage.record
    record.metric("replicas", len(found))
    record.metric("domains", len({o.domain for o in found}))
    record.metric("duration_ps", _duration_ps(cfg, run), unit="ps")
    record.metric("stable_fraction", sum(o.stable for o in found) / len(found))
    record.metric("temperature_K", temperature.value, unit="K", stderr=temperature.stderr)
    record.metric("us_per_step", us, unit="µs")
    record.metric("us_per_step_per_replica", us / len(found), unit="µs")
    record.metric("ns_per_day", 86400.0 * cfg.timestep_fs / us, unit="ns/day")
    record.metric("neighbor_lists_regrown", sum(result.regrown for result in results))


def _duration_ps(cfg: Sim, run: Settings) -> float:
    return run.n_frames * run.stride * cfg.timestep_fs / 1000.0


def _write_report(
    stage: Stage, cfg: Sim, run: Settings, results: Sequence[Result], found: Sequence[Outcome]
) -> None:
    fig = _figure(results, cfg.temperature_K)
    (stage.path / "figures").mkdir()
    save_figure(stage.path / "figures" / "run.png", fig)
    names = list(dict.fromkeys(o.domain for o in found))
    per_domain = []
    for name in names:
        rows = [o for o in found if o.domain == name]
        mean = mean_and_stderr(np.array([o.temperature_K for o in rows], float))
        per_domain.append((name, len(rows), sum(o.stable for o in rows), mean.value, mean.stderr))
    failed = [(o.domain, o.replica, o.failed_at_ps, o.reason) for o in found if not o.stable]
    stable = len(found) - len(failed)
    text = (
        f"{stable} of {len(found)} replicas alive after {_duration_ps(cfg, run):g} ps of BAOAB Langevin "
        f"dynamics at {cfg.temperature_K:g} K, time step {cfg.timestep_fs:g} fs, friction "
        f"{cfg.friction_per_ps:g}/ps, started from {cfg.start} structures. Masses and friction are chosen "
        "for sampling: times are those of the model, not of the protein. Temperatures are kinetic, over "
        "the later half of the run. ns_per_day is the length of each trajectory with all running together."
    )
    columns = ("domain", "replicas", "stable", "temperature, K", "standard error, K")
    sections = [
        Section("Run", text, Table(columns, per_domain), [figure(fig)]),
        Section(
            "Failures",
            "" if failed else "None.",
            Table(("domain", "replica", "failed at, ps", "reason"), failed) if failed else None,
        ),
    ]
    write_page(stage.path / "report.html", "Simulation", sections)


def _figure(results: Sequence[Result], temperature_K: float) -> Figure:
    fig = Figure(figsize=(9, 3.2), layout="constrained")
    energy, heat = fig.subplots(1, 2)
    for result in results:
        names = [r.domain.name for r in result.replicas]
        for index, name in enumerate(dict.fromkeys(names)):
            mine = np.array([n == name for n in names])
            for axis, values in ((energy, result.potential), (heat, result.temperature_K)):
                shown = np.where(result.alive[:, mine], values[:, mine], np.nan)
                axis.plot(result.time_ps, shown, color=f"C{index % 10}", linewidth=0.7, alpha=0.7)
            energy.plot([], [], color=f"C{index % 10}", label=name)
    heat.axhline(temperature_K, color="black", linewidth=0.8)
    energy.set(xlabel="time, ps", ylabel="potential energy, kcal/mol")
    heat.set(xlabel="time, ps", ylabel="kinetic temperature, K")
    if len(energy.get_legend_handles_labels()[1]) <= 10:
        energy.legend(fontsize=7)
    return fig
