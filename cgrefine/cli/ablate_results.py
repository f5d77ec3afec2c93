"""What the seeds of an ablation say together: means, standard errors, censored epochs, differences."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from cgrefine.cli.ablate_runs import STAGES, Run
from cgrefine.cli.audit_verdict import Verdict, judged
from cgrefine.sim.audit import mean_and_stderr

TARGET_MARGIN = 1.02
"""Default loss target, relative to the best of the full model's median seed."""

PAIRS = (("both", "priors"), ("both", "network"), ("network", "priors"))


class Summary(NamedTuple):
    """Mean over the seeds that have a value, standard error (None from one), and the value of each seed."""

    mean: float | None
    stderr: float | None
    values: tuple[float | None, ...]

    @property
    def measured(self) -> int:
        """How many seeds have a value."""
        return sum(v is not None for v in self.values)


class Reached(NamedTuple):
    """Epochs to a loss. epochs: of each seed, None where it was not reached in `budget` epochs.

    What was not reached enters no mean: mean and stderr are None unless every seed got there, and median
    unless more than half of them did (a censored value is larger than any that was seen).
    """

    epochs: tuple[int | None, ...]
    budget: int
    mean: float | None
    stderr: float | None
    median: float | None

    @property
    def reached(self) -> int:
        """How many seeds reached it."""
        return sum(e is not None for e in self.epochs)


class Difference(NamedTuple):
    """One variant minus another, and its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Variant:
    """All seeds of a variant. verdict: of the replicas of all seeds together, each counted as independent."""

    name: str
    runs: Sequence[Run]
    metrics: Mapping[str, Summary]
    reached: Reached
    verdict: Verdict
    replicas: int
    seconds: Mapping[str, Summary]


@dataclass(frozen=True)
class Ablation:
    """The whole study. differences: (variant, other) → metric → Difference. confidence: of all intervals."""

    loss_target: float
    target_given: bool
    confidence: float
    variants: Mapping[str, Variant]
    units: Mapping[str, str]
    floors: Mapping[str, float]
    differences: Mapping[tuple[str, str], Mapping[str, Difference]]

    @property
    def runs(self) -> list[Run]:
        """Every run, variant by variant."""
        return [run for variant in self.variants.values() for run in variant.runs]


def summary(values: Sequence[float | None]) -> Summary:
    """Mean and standard error (spread between seeds, n - 1, over √n) of those that are finite numbers."""
    kept = tuple(v if v is not None and math.isfinite(v) else None for v in values)
    numbers = np.array([v for v in kept if v is not None], float)
    if len(numbers) > 1 and (numbers == numbers[0]).all():  # exact, where the rounding of the mean is not
        return Summary(float(numbers[0]), 0.0, kept)
    mean, stderr = (v if math.isfinite(v) else None for v in mean_and_stderr(numbers))
    return Summary(mean, stderr, kept)


def first_epoch(curve: Sequence[tuple[int, float]], target: float) -> int | None:
    """The first epoch after which the validation loss is at or below the target; None when there is none."""
    return next((epoch for epoch, loss in curve if loss <= target), None)


def reached(epochs: Sequence[int | None], budget: int) -> Reached:
    """Statistics of epochs to a loss that are censored at the budget."""
    times = [math.inf if epoch is None else float(epoch) for epoch in epochs]
    mean, stderr, _ = summary(times) if None not in epochs else Summary(None, None, ())
    median = statistics.median(times)
    return Reached(tuple(epochs), budget, mean, stderr, median if math.isfinite(median) else None)


def default_target(runs: Sequence[Run]) -> float:
    """TARGET_MARGIN times the median over seeds of the lowest validation loss."""
    return TARGET_MARGIN * statistics.median(min(loss for _, loss in run.curve) for run in runs)


def difference(one: Summary, other: Summary, confidence: float) -> Difference | None:
    """Mean of one minus the other, seed by seed, with Student's interval of n - 1 degrees of freedom.

    None with fewer than two seeds that both have a value.
    """
    pairs = [(a, b) for a, b in zip(one.values, other.values, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return None
    mean, stderr, _ = summary([a - b for a, b in pairs])
    assert mean is not None and stderr is not None
    half = float(student.ppf(0.5 + 0.5 * confidence, len(pairs) - 1)) * stderr
    return Difference(mean, mean - half, mean + half)


def stability_difference(one: "Variant", other: "Variant") -> Difference:
    """Difference of the stable fractions of all replicas, with the interval that two Wilson ones give.

    Unlike the spread between seeds it does not vanish where all replicas of each seed end alike.
    Newcombe, Stat. Med. 17, 873 (1998), method 10.
    """
    p, q = (v.verdict.stable / v.replicas for v in (one, other))
    (p_low, p_high), (q_low, q_high) = one.verdict.wilson, other.verdict.wilson
    return Difference(
        p - q, p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)
    )


def ablation(runs: Sequence[Run], epochs: int, loss_target: float | None, confidence: float) -> Ablation:
    """All runs together. epochs: the budget of those with a network. confidence: of intervals.

    Every variant has the same seeds in the same order. loss_target None: see `default_target`.
    """
    by_variant = {
        name: [r for r in runs if r.variant == name] for name in dict.fromkeys(r.variant for r in runs)
    }
    target = default_target(by_variant["both"]) if loss_target is None else loss_target
    variants = {name: _variant(name, own, target, epochs, confidence) for name, own in by_variant.items()}
    between = {
        (a, b): differences(variants[a], variants[b], confidence) for a, b in PAIRS if {a, b} <= set(variants)
    }
    units = {name: unit for run in runs for name, unit in run.units.items()}
    floors = {name: floor for run in runs for name, floor in run.floors.items()}
    return Ablation(target, loss_target is not None, confidence, variants, units, floors, between)


def differences(one: Variant, other: Variant, confidence: float) -> dict[str, Difference]:
    """Every metric that both have, by name; where an interval can be had."""
    shared = [name for name in one.metrics if name in other.metrics]
    found = {name: difference(one.metrics[name], other.metrics[name], confidence) for name in shared}
    found["stable_fraction"] = stability_difference(one, other)
    return {name: d for name, d in found.items() if d is not None}


def _variant(name: str, runs: Sequence[Run], target: float, epochs: int, confidence: float) -> Variant:
    outcomes = [o for run in runs for o in run.outcomes]
    names = list(dict.fromkeys(metric for run in runs for metric in run.metrics))
    return Variant(
        name=name,
        runs=runs,
        metrics={metric: summary([run.metrics.get(metric) for run in runs]) for metric in names},
        reached=reached([first_epoch(run.curve, target) for run in runs], 0 if name == "priors" else epochs),
        verdict=judged(outcomes, runs[0].duration_ps, confidence),
        replicas=len(outcomes),
        seconds={stage: summary([run.seconds.get(stage) for run in runs]) for stage in STAGES},
    )


def content(study: Ablation) -> dict[str, Any]:
    """The study as JSON: per variant means, standard errors and values; differences; and one row a run."""
    return {
        "loss_target": {
            "value": study.loss_target, "unit": "(kcal/mol/Å)²",
            "source": "ablate.loss_target" if study.target_given
            else f"{TARGET_MARGIN:g} times the best of the median seed of `both`",
        },
        "units": dict(study.units),
        "reference_floors": dict(study.floors),
        "variants": {name: _variant_content(v, study.confidence) for name, v in study.variants.items()},
        "differences": {
            f"{a} - {b}": {name: d._asdict() for name, d in found.items()}
            for (a, b), found in study.differences.items()
        },
        "runs": [_run_content(run, study.loss_target) for run in study.runs],
    }  # fmt: skip


def _variant_content(v: Variant, confidence: float) -> dict[str, Any]:
    low, high = v.verdict.wilson
    return {
        "metrics": {name: {**s._asdict(), "measured": s.measured} for name, s in v.metrics.items()},
        "epochs_to_target": {**v.reached._asdict(), "reached": v.reached.reached},
        "stability": {
            "stable": v.verdict.stable, "replicas": v.replicas, "duration_ps": v.verdict.duration_ps,
            "stable_fraction": v.verdict.stable / v.replicas, "low": low, "high": high,
            "confidence": confidence,
            "median_survival_ps": {
                "value": v.verdict.median.value_ps, "lower_bound": not v.verdict.median.reached,
            },
        },
        "seconds": {stage: s._asdict() for stage, s in v.seconds.items()},
    }  # fmt: skip


def _run_content(run: Run, target: float) -> dict[str, Any]:
    epoch = first_epoch(run.curve, target)
    return {
        "variant": run.variant,
        "seed": run.seed,
        "metrics": dict(run.metrics),
        "stderr_over_validation_frames": dict(run.frames_stderr),
        "epochs_to_target": {"reached": epoch is not None, "epoch": epoch},
        "curve": [{"epoch": e, "val_force_mse": loss} for e, loss in run.curve],
        "domains_without_frames": list(run.unobserved),
        "seconds": dict(run.seconds),
        "fingerprints": dict(run.fingerprints),
    }
