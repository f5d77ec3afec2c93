"""One run of an ablation, read from the folders that its stages wrote: nothing is computed twice."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgrefine.artifacts import complete, read_json
from cgrefine.cli.observe import frames_discarded
from cgrefine.cli.observe_results import metric_key
from cgrefine.cli.replicas import Outcome, read_outcomes
from cgrefine.errors import InputError

STAGES = ("train", "evaluate", "simulate", "observe")
FORCES = ("force_rmse_kcal_mol_A", "explained_variance")
SURVIVAL = ("stable_fraction", "lived_fraction")


@dataclass(frozen=True)
class Run:
    """One variant with one seed, trained and simulated.

    metrics: by name, None where there was nothing to measure. frames_stderr: standard error of the force
    metrics over validation frames, which all runs share. floors: JS divergence of halves of the reference.
    curve: validation force MSE, (kcal/mol/Å)², after each epoch. unobserved: domains of which no frame
    is left to compare. seconds, fingerprints: of each stage that ran.
    """

    variant: str
    seed: int
    metrics: Mapping[str, float | None]
    units: Mapping[str, str]
    frames_stderr: Mapping[str, float | None]
    floors: Mapping[str, float]
    curve: Sequence[tuple[int, float]]
    outcomes: Sequence[Outcome]
    duration_ps: float
    unobserved: Sequence[str]
    seconds: Mapping[str, float]
    fingerprints: Mapping[str, str]


def unobservable(outcomes: Sequence[Outcome], discard_fraction: float) -> list[str]:
    """Domains of which `observe` has no frame left: all their replicas failed before there were any."""
    found = []
    for name in dict.fromkeys(o.domain for o in outcomes):
        longest = max(o.frames for o in outcomes if o.domain == name)
        if longest <= frames_discarded(longest, discard_fraction):
            found.append(name)
    return found


def read_run(folder: Path, variant: str, seed: int, discard_fraction: float) -> Run:
    """The results in the stage folders below `folder`. Raises InputError on one that is damaged."""
    outcomes = read_outcomes(folder / "simulate" / "replicas.csv")
    unobserved = unobservable(outcomes, discard_fraction)
    stages = [stage for stage in STAGES if stage != "observe" or not unobserved]
    summaries = {stage: read_json(folder / stage / "metrics.json") for stage in stages}
    found = {name: (stage, m) for stage in stages for name, m in summaries[stage]["metrics"].items()}
    chosen = [*FORCES, "stable_fraction", *(name for name, (stage, _) in found.items() if stage == "observe")]
    duration = float(summaries["simulate"]["metrics"]["duration_ps"]["value"])
    metrics = {name: _value(found[name][1]) for name in chosen}
    lived = [duration if o.failed_at_ps is None else o.failed_at_ps for o in outcomes]
    metrics["lived_fraction"] = float(np.mean(lived)) / duration
    return Run(
        variant=variant,
        seed=seed,
        metrics=metrics,
        units={name: unit for name in chosen if (unit := _unit(found[name][1]))},
        frames_stderr={name: found[name][1].get("stderr") for name in FORCES},
        floors={} if unobserved else _floors(folder / "observe" / "observables.json"),
        curve=_curve(folder / "train" / "log.csv", summaries["train"]),
        outcomes=outcomes,
        duration_ps=duration,
        unobserved=unobserved,
        seconds={stage: float(summaries[stage]["seconds"]) for stage in stages},
        fingerprints={stage: complete(folder, stage) or "" for stage in stages},
    )  # fmt: skip


def _value(metric: Any) -> float | None:
    value = metric["value"] if isinstance(metric, dict) else metric
    return None if value is None else float(value)


def _unit(metric: Any) -> str | None:
    return metric.get("unit") if isinstance(metric, dict) else None


def _floors(path: Path) -> dict[str, float]:
    """JS floor of each observable, mean over the domains that have one (two reference runs or more)."""
    found: dict[str, list[float]] = {}
    for domain in read_json(path).values():
        for name, numbers in domain["observables"].items():
            if numbers["jensen_shannon_floor"] is not None:
                found.setdefault(f"js_{metric_key(name)}", []).append(numbers["jensen_shannon_floor"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def _curve(log: Path, train: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Validation loss by epoch, those that are not finite left out; priors alone have one value, at 0."""
    if not log.exists():
        return [(0, float(train["metrics"]["val_force_mse"]["value"]))]
    try:
        with log.open(newline="") as handle:
            rows = [(int(row["epoch"]), row["val_force_mse"]) for row in csv.DictReader(handle)]
        return [(epoch, float(text)) for epoch, text in rows if text and math.isfinite(float(text))]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{log}: not the log of a training ({error!r}); remove the folder and run again"
        ) from error
