"""`cgrefine audit --model PATH --reference DATA`: any force field against any data set, without a run folder.

Below OUT/audit/: audit.json, report.html, metrics.json; of each model a folder with what `simulate` writes of
a run: trajectories/, topology/, failures/, log.csv and replicas.csv. All models run from the same starts
(minimised in each, where `sim` asks for it) with the same noise. Interrupted, the same command goes on with
the dynamics from the last chunk, as `simulate` does, and then makes the checks anew.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cgrefine import artifacts
from cgrefine.artifacts import Stage, file_hash, write_json
from cgrefine.cli.audit import FORMAT, Audited, audited, record, references, warn, write_figures
from cgrefine.cli.audit_plots import survival_plots
from cgrefine.cli.audit_subject import Subject
from cgrefine.cli.audit_verdict import Verdict
from cgrefine.cli.console import Console
from cgrefine.cli.dynamics import bead_steps, resolved, scaled
from cgrefine.cli.force_field import identity, members_of, opened
from cgrefine.cli.replicas import Replica
from cgrefine.cli.signals import asked_to_end
from cgrefine.cli.simulate import assigned, chosen_domains, run_settings, unfinished
from cgrefine.cli.simulate_packs import made, n_packs, run_packs, with_packs
from cgrefine.cli.simulate_results import duration_ps, write_runs
from cgrefine.cli.stages import device_kind, enforce, refuse_exchange
from cgrefine.config.running import Sim
from cgrefine.config.schema import Config
from cgrefine.data.store import Dataset, open_dataset
from cgrefine.errors import InputError
from cgrefine.interop.opened import Modelled
from cgrefine.report.page import Section, Table, write_page
from cgrefine.sim import survival
from cgrefine.sim.calibration import calibrated
from cgrefine.sim.rollout import Settings
from cgrefine.versions import refuse_miscompiling


def audit_force_fields(
    models: Sequence[str],
    reference: Path,
    config: Config,
    out: Path,
    console: Console,
    *,
    force: bool = False,
    strict: bool = False,
    resume: bool = True,
) -> bool:
    """Write OUT/audit/ unless it is complete for the same models, data and settings; True when it ran.

    resume: dynamics of an interrupted audit of the same work are taken up where they were left. Raises
    InputError on a path without a force field or data set, GateError under `strict` when a check of any model
    failed, and Interrupted after a signal, with the dynamics so far written.
    """
    assert config.sim is not None
    refuse_exchange(config, "audit")
    if config.sim.on_cluster:
        raise InputError("sim.on_cluster: audit --model runs in this process; leave it out")
    dataset = open_dataset(data_folder(reference))
    inputs = {f"{i}:{name}": identity(Path(name)) for i, name in enumerate(models)}
    inputs["data"] = file_hash(dataset.folder / "dataset.json")
    sections = {s: getattr(config, s).model_dump(mode="json") for s in ("sim", "audit", "observables")}
    fingerprint = artifacts.fingerprint_of("audit", sections, inputs)
    ran = force or artifacts.complete(out, "audit") != fingerprint
    if ran:
        refuse_miscompiling()
        seed = config.sim.seed
        kind = device_kind()
        with artifacts.stage_folder(out, "audit", config, fingerprint, inputs, seed, kind, resume) as stage:
            write_audit(stage, models, dataset, config, console)
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


def write_audit(
    stage: Stage, models: Sequence[str], dataset: Dataset, config: Config, console: Console
) -> None:
    """Run and audit the models (paths) into a stage folder."""
    sim, cfg = config.sim, config.audit
    assert sim is not None
    domains = chosen_domains(dataset, sim)
    replicas = assigned(domains, sim)
    force_fields = {name: opened(Path(name), sim.temperature_K, console) for name in models}
    sim = scaled(resolved(sim, force_fields[models[0]], replicas, console), replicas)
    sim = with_packs(sim, unfinished(stage, n_packs(replicas, sim)), console)
    known = references(domains, sim.temperature_K)
    criteria, thresholds = calibrated(known, sim.criteria, bead_steps(sim, replicas))
    if cfg.calibrate:
        sim = sim.model_copy(update={"criteria": criteria})
    for t in thresholds:
        console.say(f"{t.name}: given {t.given:.4g}, by the data {t.data:.4g}, used {t.used:.4g}")
    found = {}
    for index, name in enumerate(models):
        folder, scratch = (place / f"model{index}" for place in (stage.path, stage.scratch))
        console.say(f"{name}: {len(replicas)} replicas over {sim.duration_ps:g} ps")
        subject = simulated(force_fields[name], dataset, replicas, sim, folder, scratch, console)
        subject = replace(subject, members=members_of(Path(name)), observables=config.observables)
        found[name] = audited(subject, thresholds, cfg, console, loosened=cfg.calibrate)
        record(stage.record, found[name], "" if len(models) == 1 else f"model{index}.")
        console.result(f"{name}: {found[name].verdict.sentence}")
        warn(found[name].findings, console, f"{name}: ")
    verdicts = {name: one.verdict for name, one in found.items()}
    if len(models) == 1:
        (one,) = found.values()
        write_figures(stage.path, {"": one.verdict})
        write_json(stage.path / "audit.json", one.content)
        write_page(stage.path / "report.html", f"Stability audit of {models[0]}", one.sections)
        return
    write_figures(stage.path, verdicts)
    told = comparison(verdicts)
    content = {"format": FORMAT, "models": {n: one.content for n, one in found.items()}, "comparison": told}
    write_json(stage.path / "audit.json", content)
    sections = [_comparison_section(found, told)]
    for name, one in found.items():
        sections += [replace(s, heading=f"{name}: {s.heading}") for s in one.sections]
    write_page(stage.path / "report.html", "Stability audit", sections)


def simulated(
    force_field: Modelled,
    dataset: Dataset,
    replicas: Sequence[Replica],
    sim: Sim,
    folder: Path,
    scratch: Path,
    console: Console,
    run: Settings | None = None,
) -> Subject:
    """Run the replicas as `simulate` does, from where the files in `scratch` are, and write what it writes
    below `folder`. run: other chunks and buffers than those of `simulate`."""
    folder.mkdir()
    scratch.mkdir(exist_ok=True)
    run = run_settings(sim, force_field) if run is None else run
    whole = made(replicas, force_field, sim, run, scratch, console)
    with asked_to_end() as asked:
        run_packs(whole, force_field, sim, run, console, asked)
    _, found = write_runs(folder, sim, run, whole)
    return Subject(force_field, dataset, sim, folder, found, duration_ps(sim, run))


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


def _comparison_section(found: dict[str, Audited], told: dict[str, Any]) -> Section:
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
    plots = survival_plots({name: one.verdict for name, one in found.items()})
    return Section("Comparison", text, Table(columns, rows), plots=plots[:1])
