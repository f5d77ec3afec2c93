"""`cgrefine audit --model PATH --reference DATA`: any force field against any data set, without a run folder.

Below OUT/audit/: audit.json, report.html, metrics.json; of each model a folder with trajectories/,
topology/ and replicas.csv as `simulate` writes them, and failures/: up to five saved frames before each
failure, and the state one step before it. All models run from the same starts with the same noise.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

from cgrefine import artifacts
from cgrefine.artifacts import Stage, file_hash, write_json
from cgrefine.cli.audit import FORMAT, Audited, audited, record, references, survival_figure
from cgrefine.cli.audit_subject import Subject, dynamics
from cgrefine.cli.audit_verdict import Verdict
from cgrefine.cli.console import Console
from cgrefine.cli.dynamics import resolved
from cgrefine.cli.force_field import identity, opened, refuse_other_lengths
from cgrefine.cli.replicas import Outcome, Replica, write_outcomes
from cgrefine.cli.simulate import assigned, chosen_domains, packs
from cgrefine.cli.stages import device_kind, enforce, refuse_exchange
from cgrefine.config.running import Sim
from cgrefine.config.schema import Config
from cgrefine.data.store import Dataset, open_dataset
from cgrefine.errors import InputError
from cgrefine.interop.opened import Modelled
from cgrefine.report.page import Section, Table, figure, save_figure, write_page
from cgrefine.sim import survival
from cgrefine.sim.audit import thermalised_means
from cgrefine.sim.calibration import calibrated
from cgrefine.sim.rollout import Chunk
from cgrefine.sim.trajectory import A_PER_NM, TrajectoryWriter, mdtraj_topology, write_pdb
from cgrefine.sim.trial import Trial
from cgrefine.status import REASONS, Status
from cgrefine.versions import refuse_miscompiling

FRAMES_BEFORE = 5
"""Saved frames before a failure that its snapshot holds."""


def audit_force_fields(
    models: Sequence[str],
    reference: Path,
    config: Config,
    out: Path,
    console: Console,
    *,
    force: bool = False,
    strict: bool = False,
) -> bool:
    """Write OUT/audit/ unless it is complete for the same models, data and settings; True when it ran.

    Raises InputError on a path without a force field or data set, and GateError under `strict` when a check
    of any model failed.
    """
    assert config.sim is not None
    refuse_exchange(config, "audit")
    dataset = open_dataset(data_folder(reference))
    inputs = {f"{i}:{name}": identity(Path(name)) for i, name in enumerate(models)}
    inputs["data"] = file_hash(dataset.folder / "dataset.json")
    sections = {s: getattr(config, s).model_dump(mode="json") for s in ("sim", "audit")}
    fingerprint = artifacts.fingerprint_of("audit", sections, inputs)
    ran = force or artifacts.complete(out, "audit") != fingerprint
    if ran:
        refuse_miscompiling()
        seed = config.sim.seed
        with artifacts.stage_folder(out, "audit", config, fingerprint, inputs, seed, device_kind()) as stage:
            _build(stage, models, dataset, config, console)
    else:
        console.say(f"audit: {out / 'audit'} is complete for these models, skipped")
    if strict:
        enforce(out, "audit")
    return ran


def data_folder(reference: Path) -> Path:
    """The prepared data set of a run folder, or the folder itself. Raises InputError when there is none."""
    found = [place for place in (reference, reference / "prepare") if (place / "dataset.json").is_file()]
    if not found:
        raise InputError(
            f"--reference {reference}: holds no data set (dataset.json); run `cgrefine prepare` first"
        )
    return found[0]


def _build(stage: Stage, models: Sequence[str], dataset: Dataset, config: Config, console: Console) -> None:
    sim, cfg = config.sim, config.audit
    assert sim is not None
    domains = chosen_domains(dataset, sim)
    replicas = assigned(domains, sim)
    force_fields = {name: opened(Path(name), sim.temperature_K, console) for name in models}
    for force_field in force_fields.values():
        refuse_other_lengths(force_field, {d.name: d.n_beads for d in domains})
    sim = resolved(sim, force_fields[models[0]], replicas, console)
    bead_steps = sum(len(r.start) for r in replicas) * 1000.0 * sim.duration_ps / sim.step_fs
    criteria, thresholds = calibrated(references(domains, sim.temperature_K), sim.criteria, bead_steps)
    if cfg.calibrate:
        sim = sim.model_copy(update={"criteria": criteria})
    for t in thresholds:
        console.say(f"{t.name}: given {t.given:.4g}, by the data {t.data:.4g}, used {t.used:.4g}")
    found = {}
    for index, name in enumerate(models):
        folder = stage.path / f"model{index}"
        console.say(f"{name}: {len(replicas)} replicas over {sim.duration_ps:g} ps")
        subject = simulated(force_fields[name], dataset, replicas, sim, folder, console)
        found[name] = audited(subject, thresholds, cfg, console, loosened=cfg.calibrate)
        record(stage.record, found[name], "" if len(models) == 1 else f"model{index}.")
        console.result(f"{name}: {found[name].verdict.sentence}")
    verdicts = {name: one.verdict for name, one in found.items()}
    (stage.path / "figures").mkdir()
    fig = survival_figure(verdicts)
    save_figure(stage.path / "figures" / "survival.png", fig)
    if len(models) == 1:
        (one,) = found.values()
        write_json(stage.path / "audit.json", one.content)
        write_page(stage.path / "report.html", f"Stability audit of {models[0]}", one.sections)
        return
    told = comparison(verdicts)
    content = {"format": FORMAT, "models": {n: one.content for n, one in found.items()}, "comparison": told}
    write_json(stage.path / "audit.json", content)
    sections = [_comparison_section(found, told, figure(fig))]
    for name, one in found.items():
        sections += [Section(f"{name}: {s.heading}", s.text, s.table, s.figures) for s in one.sections]
    write_page(stage.path / "report.html", "Stability audit", sections)


def simulated(
    force_field: Modelled,
    dataset: Dataset,
    replicas: Sequence[Replica],
    sim: Sim,
    folder: Path,
    console: Console,
) -> Subject:
    """Run the replicas as `simulate` does, and write what it writes below `folder`, with failures/."""
    for part in ("trajectories", "topology", "failures"):
        (folder / part).mkdir(parents=True)
    found: list[Outcome] = []
    ends: dict[tuple[str, int], np.ndarray] = {}
    duration_ps = sim.duration_ps
    for index, batch in enumerate(packs(replicas)):
        run, last, before = _run(force_field, batch, sim, folder, index, console)
        duration_ps = run.length_ps
        kelvin = thermalised_means(run.temperature_K, run.alive)
        for g, r in enumerate(batch):
            status = Status(int(run.status[g]))
            failed = status != Status.OK
            if r.index == 0:
                write_pdb(folder / "topology" / f"{r.domain.name}.pdb", r.domain.topology, r.start)
            if failed:
                ends[(r.domain.name, r.index)] = last[g]
                _write_snapshot(folder / "failures", r, [*before[g], last[g]])
            found.append(
                Outcome(
                    domain=r.domain.name,
                    replica=r.index,
                    status=status.name,
                    reason=REASONS[status],
                    failed_at_ps=float(run.time_ps[g]) if failed else None,
                    frames=1 + int(run.alive[:, g].sum()),
                    temperature_K=float(kelvin[g]) if np.isfinite(kelvin[g]) else None,
                    trajectory=r.file(sim.format),
                )
            )
    write_outcomes(folder / "replicas.csv", found)
    return Subject(force_field, dataset, sim, folder, found, duration_ps, ends)


def _run(
    force_field: Modelled,
    batch: Sequence[Replica],
    sim: Sim,
    folder: Path,
    pack_index: int,
    console: Console,
) -> tuple[Trial, list[np.ndarray], list[deque[np.ndarray]]]:
    """One pack: its trial, the last state of each replica, and the saved frames before that."""
    ends = np.cumsum([len(r.start) for r in batch])
    parts = [slice(end - len(r.start), end) for end, r in zip(ends, batch, strict=True)]
    before = [deque([r.start], maxlen=FRAMES_BEFORE) for r in batch]
    with TrajectoryWriter([folder / r.file(sim.format) for r in batch]) as writer:
        for g, r in enumerate(batch):
            writer.write(g, r.start[None], np.zeros(1))

        def save(chunk: Chunk) -> None:
            for g, part in enumerate(parts):
                good = chunk.positions[chunk.alive[:, g], part]
                writer.write(g, good, chunk.time_ps[chunk.alive[:, g]])
                before[g].extend(good)

        kelvin = np.full(len(batch), sim.temperature_K)
        run = dynamics(
            force_field, batch, kelvin, sim, sim.step_fs, sim.duration_ps, sim.save_every_ps, console,
            "simulate", save, pack_index,
        )  # fmt: skip
    return run, [run.last[part] for part in parts], before


def _write_snapshot(folder: Path, replica: Replica, frames: Sequence[np.ndarray]) -> None:
    """Frames (n, 3) Å as the models of one PDB file."""
    chain = mdtraj_topology(replica.domain.topology)
    path = folder / f"{replica.domain.name}_r{replica.index:03d}.pdb"
    mdtraj.Trajectory(np.stack(frames) / A_PER_NM, chain).save_pdb(str(path))


def comparison(verdicts: dict[str, Verdict]) -> dict[str, Any]:
    """Log-rank test of all models, and of each against the first: log-rank, McNemar and paired times."""
    times, failed = ([getattr(v, key) for v in verdicts.values()] for key in ("times_ps", "failed"))
    (first, base), *others = verdicts.items()
    return {
        "log_rank": survival.log_rank(times, failed)._asdict(),
        "first": first,
        "against_first": {
            name: {
                "log_rank": survival.log_rank([base.times_ps, v.times_ps], [base.failed, v.failed])._asdict(),
                "mcnemar": survival.mcnemar(base.failed, v.failed)._asdict(),
                "paired_times": survival.paired_sign(
                    base.times_ps, base.failed, v.times_ps, v.failed
                )._asdict(),
            }
            for name, v in others
        },
    }


def _comparison_section(found: dict[str, Audited], told: dict[str, Any], curves: str) -> Section:
    rows = []
    for name, one in found.items():
        v, tests = one.verdict, told["against_first"].get(name)
        p = ["–"] * 3 if tests is None else [t["p"] for t in tests.values()]
        low, high = v.interval
        bound = "" if v.median.reached else "at least "
        failed = [f.name for f in one.findings if f.passed is False]
        rows.append(
            (
                name, f"{v.stable} of {len(v.failed)}", f"{low:.2f} to {high:.2f}",
                f"{bound}{v.median.value_ps:g}", v.hazard_per_ns.value, *p, ", ".join(failed) or "none",
            )
        )  # fmt: skip
    columns = (
        "force field", "stable", "interval", "median survival, ps", "hazard, 1/ns", "log-rank p",
        "McNemar p", "paired times p", "checks that failed",
    )  # fmt: skip
    text = (
        f"All started from the same frames with the same noise. Log-rank test of all: p = "
        f"{told['log_rank']['p']:.3g}. The p-values of a row are against {told['first']}: survival curves "
        "(log-rank), which replicas failed (McNemar, exact), and which lived longer from the same start "
        "(sign test). They are not corrected for the number of force fields."
    )
    return Section("Comparison", text, Table(columns, rows), [curves])
