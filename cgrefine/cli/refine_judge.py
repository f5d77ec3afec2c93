"""What a refinement has come to: start, refined model and control, side by side on what they have not seen.

Each runs from the same validation frames with the same noise, by the criteria of `sim`; forces are compared
on all validation frames, observables on frames before any failure.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgrefine.artifacts import Stage
from cgrefine.checkpoint import save_params
from cgrefine.cli.audit_model import comparison
from cgrefine.cli.audit_model import simulated as run_in
from cgrefine.cli.audit_subject import Subject
from cgrefine.cli.audit_verdict import Verdict, judged
from cgrefine.cli.console import Console
from cgrefine.cli.observe_findings import Comparison, compared_with
from cgrefine.cli.refine_setup import Setup, groups, with_room
from cgrefine.cli.replicas import Replica, read_outcomes
from cgrefine.cli.simulate import run_settings
from cgrefine.cli.simulate_packs import n_packs, packs
from cgrefine.cli.simulate_results import duration_ps
from cgrefine.cli.train_member import frame_sets
from cgrefine.config.running import Sim
from cgrefine.config.schema import Config
from cgrefine.fm.compare import Comparison as Forces
from cgrefine.fm.compare import Difference, compare
from cgrefine.fm.forcefield import ForceField
from cgrefine.sim.rollout import Settings

FORMAT = 2

Observed = dict[str, dict[str, list[Comparison]]]
"""Of each model and protein."""


@dataclass(frozen=True)
class Judged:
    """verdicts, observables (by protein): of each model; forces: of all of them; content: final_metrics.json.

    together: observables over the time in which the same replica of every model is alive. held_out: names of
    observables that were no targets.
    """

    verdicts: dict[str, Verdict]
    observables: Observed
    together: Observed
    forces: Forces
    held_out: Sequence[str]
    content: dict[str, Any]


def judge(
    stage: Stage, config: Config, made: Setup, fields: Mapping[str, ForceField], console: Console
) -> Judged:
    """Run and compare the models (by name: pre, post, control); metrics and checks go into the record.

    A model whose replicas have run is not run again after an interruption.
    """
    cfg = config.refine
    assert cfg is not None and config.train is not None
    sim, replicas = made.judging, made.held_out
    number = n_packs(replicas, sim)
    sim = sim.model_copy(update={"packs": number})
    chunk = made.refinement.simulator.run.n_frames
    run = with_room(run_settings(sim, made.force_field, chunk), packs(replicas, number))
    subjects = {
        name: _subject(stage, name, field, made, replicas, sim, run, console)
        for name, field in fields.items()
    }
    verdicts = {name: judged(s.found, s.duration_ps, config.audit.confidence) for name, s in subjects.items()}
    for name, verdict in verdicts.items():
        console.result(f"{name}: {verdict.sentence}")
    observables, together = _observables(subjects, config)
    for name, of_domains in observables.items():
        _write_arrays(stage.path / "evaluation" / name / "observables.npz", of_domains)
    cutoff_A = max(field.model.cutoff_A for field in fields.values())
    frames = frame_sets(made.dataset, cutoff_A, config.loader).validation
    forces = compare(fields, frames, config.train.batch_beads, config.loader)
    held_out = [name for name in cfg.evaluation.held_out if name not in {t.observable for t in cfg.targets}]
    content = _content(verdicts, observables, together, forces, held_out, cfg.mode)
    _record(stage, verdicts, forces, config)
    return Judged(verdicts, observables, together, forces, held_out, content)


def _subject(
    stage: Stage,
    name: str,
    field: ForceField,
    made: Setup,
    replicas: Sequence[Replica],
    sim: Sim,
    run: Settings,
    console: Console,
) -> Subject:
    """The replicas of one model: run, or as they were before an interruption."""
    folder = stage.path / "evaluation" / name
    if not folder.exists():
        partial = stage.scratch / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        console.say(f"{name}: {len(replicas)} replicas over {sim.duration_ps:g} ps")
        run_in(field, made.dataset, replicas, sim, partial, stage.scratch / name, console, run)
        folder.parent.mkdir(exist_ok=True)
        partial.rename(folder)
    found = read_outcomes(folder / "replicas.csv")
    return Subject(field, made.dataset, sim, folder, found, duration_ps(sim, run))


def _observables(subjects: Mapping[str, Subject], config: Config) -> tuple[Observed, Observed]:
    """The reference's validation frames against frames before any failure, starts left out: all of them, and

    those at times at which the same replica of every model is alive: else a model that dies at once would be
    judged near its starts, and one that lives where it has come to. A protein without frames is left out.
    """
    found, together = {name: {} for name in subjects}, {name: {} for name in subjects}
    any_of = next(iter(subjects.values()))
    for domain in any_of.domains():
        runs = {
            name: [subject.frames(o)[1:] for o in subject.found if o.domain == domain.name]
            for name, subject in subjects.items()
        }
        shortest = [min(map(len, same)) for same in zip(*runs.values(), strict=True)]
        cut = {name: [x[:k] for x, k in zip(of, shortest, strict=True)] for name, of in runs.items()}
        sides = {(name, False): of for name, of in runs.items()}
        sides |= {(name, True): of for name, of in cut.items()}
        lived = {side: [x for x in of if len(x)] for side, of in sides.items()}
        reference = groups(domain, any_of.sim, validation=True)
        lived = {side: of for side, of in lived.items() if of}
        for (name, cut_), comparisons in compared_with(domain, reference, lived, config.observables).items():
            (together if cut_ else found)[name][domain.name] = comparisons
    return found, together


def _write_arrays(path: Path, found: Mapping[str, list[Comparison]]) -> None:
    """Means of each replica (or block of a single one): protein → observable → (r, ...)."""
    arrays = {
        name: {c.observable.name: c.model.groups for c in comparisons} for name, comparisons in found.items()
    }
    save_params(path, {name: group for name, group in arrays.items() if group})


def distances(found: Mapping[str, list[Comparison]], name: str) -> tuple[float, float, float]:
    """Mean distance of an observable from the reference over proteins, its error, and its noise floor."""
    chosen = [c.divergence for cs in found.values() for c in cs if c.observable.name == name]
    if not chosen:
        return float("nan"), float("nan"), float("nan")
    error = float(np.sqrt(np.sum([d.stderr**2 for d in chosen])) / len(chosen))
    return (
        float(np.mean([d.value for d in chosen])),
        error,
        float(np.mean([d.floor for d in chosen])),
    )


def observable_names(found: Judged) -> list[str]:
    """Of all pooled observables, in order."""
    names = [
        c.observable.name for ds in found.observables.values() for cs in ds.values() for c in cs if c.pooled
    ]
    return list(dict.fromkeys(names))


def _content(
    verdicts: Mapping[str, Verdict],
    observables: Observed,
    together: Observed,
    forces: Forces,
    held_out: Sequence[str],
    mode: str,
) -> dict[str, Any]:
    models = {}
    for name, v in verdicts.items():
        error = next(c for c in forces.contenders if c.name == name)
        pooled = {c.observable.name for cs in observables[name].values() for c in cs if c.pooled}
        models[name] = {
            "replicas": len(v.failed),
            "stable": v.stable,
            "stable_fraction_interval": list(v.interval),
            "median_survival_ps": {"value": v.median.value_ps, "lower_bound": not v.median.reached},
            "hazard_per_ns": v.hazard_per_ns._asdict(),
            "failures": {criterion: c.failures for criterion, c in v.criteria.items()},
            "times_ps": v.times_ps,
            "failed": [bool(f) for f in v.failed],
            "force_mse": error.errors.mse._asdict(),
            "force_mse_difference": _difference(error.difference),
            "observables": {key: _of_observable(observables[name], key) for key in sorted(pooled)},
            "observables_together": {key: _of_observable(together[name], key) for key in sorted(pooled)},
        }
    return {
        "format": FORMAT,
        "mode": mode,
        "duration_ps": next(iter(verdicts.values())).duration_ps,
        "held_out_observables": list(held_out),
        "models": models,
        "comparison": comparison(dict(verdicts)),
    }


def _difference(found: Difference | None) -> dict[str, float] | None:
    return None if found is None else {**found.mse._asdict(), "low": found.low, "high": found.high}


def _of_observable(found: Mapping[str, list[Comparison]], name: str) -> dict[str, float]:
    return dict(zip(("distance", "stderr", "floor"), distances(found, name), strict=True))


def _record(stage: Stage, verdicts: Mapping[str, Verdict], forces: Forces, config: Config) -> None:
    record, cfg = stage.record, config.refine
    assert cfg is not None
    for name, v in verdicts.items():
        record.metric(f"{name}.stable_fraction", v.stable / len(v.failed))
        record.metric(f"{name}.median_survival_ps", v.median.value_ps, "ps")
        record.metric(f"{name}.hazard_per_ns", v.hazard_per_ns.value, "1/ns")
    by_name = {c.name: c for c in forces.contenders}
    for name, c in by_name.items():
        record.metric(f"{name}.force_mse", c.errors.mse.value, "(kcal/mol/Å)²", c.errors.mse.stderr)
    start = by_name["pre"].errors.mse.value
    growth = by_name["post"].errors.mse.value / start - 1.0
    record.metric("force_mse_growth", growth)
    before, now = verdicts["pre"], verdicts["post"]
    record.metric("survival_gain", now.median.value_ps / max(before.median.value_ps, np.finfo(float).tiny))
    if cfg.forces.combine in ("constraint", "projection"):
        limit = cfg.forces.tolerance + cfg.forces.max_growth
        record.check("force_mse_growth", growth <= limit, growth, limit)
    fractions = [v.stable / len(v.failed) for v in (now, before)]
    record.check("not_less_stable", fractions[0] >= before.interval[0], fractions[0], before.interval[0])
