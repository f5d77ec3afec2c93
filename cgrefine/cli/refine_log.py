"""The log of a refinement: one entry a window, as JSON, as a table, as scalars, and as a sentence."""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cgrefine.boltzmann.learning import Update
from cgrefine.boltzmann.refine import Info, Phase

OF_UPDATES = (
    "signal", "own", "forces", "agreement", "force_loss", "growth", "kish", "entropy", "spread", "step",
    "n_eff",
)  # fmt: skip
"""Numbers of updates, whose means over a window are shown: see `boltzmann.learning.Update`."""

COLUMNS = (
    "window", "phase", "cycle", "epoch", "failed", "failed_since", "updates", "rejected", "force_mse", "rate",
    "multiplier", *OF_UPDATES, "loss",
)  # fmt: skip


def entry_of(info: Info) -> dict[str, Any]:
    """One window as JSON-able values; numbers that there are not are null."""
    return {
        "window": info.window,
        "phase": info.phase.name.lower(),
        "cycle": info.cycle,
        "epoch": info.epoch,
        "failed": info.failed,
        "failed_since": info.since,
        "statuses": info.statuses,
        "sent_back": info.sent_back,
        "rejected": info.rejected,
        "force_mse": info.error,
        "rate": info.rate,
        "multiplier": info.multiplier,
        "next": info.next.name.lower(),
        "updates": [_of_update(u) for u in info.updates],
    }


def _of_update(update: Update) -> dict[str, Any]:
    numbers = {name: _number(getattr(update, name)) for name in OF_UPDATES}
    return {"losses": update.losses, "told": update.told, **numbers}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def mean_of(entry: Mapping[str, Any], name: str) -> float:
    """Mean of a number over the updates of a window; NaN without any."""
    values = [u[name] for u in entry["updates"] if u[name] is not None]
    return float(np.mean(values)) if values else math.nan


def losses_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """Loss of each target at the first update of a window, mean over proteins; none without updates."""
    if not entry["updates"]:
        return {}
    by_name: dict[str, list[float]] = {}
    for found in entry["updates"][0]["losses"].values():
        for name, value in found.items():
            by_name.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in by_name.items()}


def course(log: Sequence[Mapping[str, Any]], beads: int, steps: int) -> dict[str, Any]:
    """What was done, in numbers. beads: of all replicas; steps: of a window.

    phases: in order, each with its number of windows, the failed fraction of its first and last window, and
    what had failed since exploring began at its end; md_bead_steps: forces of beads that were computed for
    dynamics; evaluations for learning are not counted.
    """
    phases: list[dict[str, Any]] = []
    for entry in log:
        same = phases and (phases[-1]["phase"], phases[-1]["cycle"]) == (entry["phase"], entry["cycle"])
        if not same:
            phases.append(
                {
                    "phase": entry["phase"],
                    "cycle": entry["cycle"],
                    "windows": 0,
                    "first_failed": entry["failed"],
                }
            )
        phases[-1] |= {"last_failed": entry["failed"], "failed_since": entry["failed_since"]}
        phases[-1]["windows"] += 1
    return {
        "phases": phases,
        "windows": len(log),
        "updates": sum(len(entry["updates"]) for entry in log),
        "taken_back": sum(bool(entry["rejected"]) for entry in log),
        "md_bead_steps": len(log) * beads * steps,
    }


def sentence(info: Info) -> str:
    """What happened in a window, in words."""
    if info.phase == Phase.EXPLORE:
        told = f"window {info.window}, exploring: {info.failed:.0%} failed, {info.since:.0%} so far"
    else:
        told = f"window {info.window}, cycle {info.cycle}, epoch {info.epoch}: {info.failed:.0%} failed"
        kish = mean_of(entry_of(info), "kish")
        told += f", {len(info.updates)} updates, force MSE {info.error:.4g} (kcal/mol/Å)²"
        told += "" if math.isnan(kish) else f", Kish {kish:.2f}"
    if info.rejected:
        told += f"; the epoch is taken back: {info.rejected}"
    return told


def write_csv(path: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """All windows, one a row; loss: sum over targets of the mean over proteins."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for entry in log:
            numbers = [mean_of(entry, name) for name in OF_UPDATES]
            losses = losses_of(entry)
            numbers.append(sum(losses.values()) if losses else math.nan)
            plain = [entry[name] for name in COLUMNS[:6]]
            writer.writerow(
                [
                    *plain,
                    len(entry["updates"]),
                    entry["rejected"],
                    *(entry[name] for name in ("force_mse", "rate", "multiplier")),
                    *("" if math.isnan(v) else f"{v:.6g}" for v in numbers),
                ]
            )
    os.replace(temporary, path)


def scalars_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an entry for TensorBoard; NaN where there are none."""
    return {
        "failed/window": entry["failed"],
        "failed/since_exploring": entry["failed_since"],
        "survival/window": 1.0 - entry["failed"],
        "forces/held_out_rmse": math.sqrt(entry["force_mse"]),
        "forces/multiplier": entry["multiplier"],
        "update/rate": entry["rate"],
        **{f"update/{name}": mean_of(entry, name) for name in OF_UPDATES},
        **{f"loss/{name}": value for name, value in losses_of(entry).items()},
    }
