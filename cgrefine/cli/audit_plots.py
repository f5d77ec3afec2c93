"""Plots of the audit: survival in all, by criterion and of short runs, and energy without a thermostat."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cgrefine.cli.audit_verdict import Verdict
from cgrefine.report.plot import Axis, Band, Line, Mark, Plot
from cgrefine.sim.survival import Survival
from cgrefine.status import REASONS, Status

FRACTION = Axis("surviving fraction", limits=(-0.02, 1.05))
TIME = Axis("time, ps")


class Curve(NamedTuple):
    """A survival curve until end_ps; interval: of the fraction at the end, where it is to be drawn."""

    survival: Survival
    end_ps: float
    interval: tuple[float, float] | None = None


def survival_plots(verdicts: Mapping[str, Verdict]) -> list[Plot]:
    """Survival of each force field (by name, "" for a single one), and of each by criterion.

    Bands are the pointwise intervals of Kaplan-Meier curves, the bar at the end the exact interval.
    """
    every = {name: Curve(v.survival, v.duration_ps, v.interval) for name, v in verdicts.items()}
    plots = [curves("Survival of all replicas", every)]
    for name, v in verdicts.items():
        by = {
            REASONS[Status[criterion]]: Curve(found.survival, v.duration_ps)
            for criterion, found in v.criteria.items()
        }
        if by:
            caption = "Survival by criterion, failures by the others censored"
            plots.append(curves(f"{name}: {caption}" if name else caption, by))
    return plots


def curves(caption: str, found: Mapping[str, Curve]) -> Plot:
    """Kaplan-Meier curves with their bands, one colour each."""
    marks: list[Mark] = []
    for colour, (name, curve) in enumerate(found.items()):
        s = curve.survival
        times = np.r_[0.0, s.times_ps, max(curve.end_ps, *s.times_ps, 0.0)]
        fraction, low, high = (_held(v) for v in (s.surviving, s.low, s.high))
        at, lowest = _corners(times, low)
        marks.append(Band(at, lowest, _corners(times, high)[1], colour=colour))
        marks.append(Line(times, fraction, name, step=True, colour=colour))
        if curve.interval is not None:
            bars = (
                [max(fraction[-1] - curve.interval[0], 0.0)],
                [max(curve.interval[1] - fraction[-1], 0.0)],
            )
            marks.append(Line(times[-1:], fraction[-1:], error=bars, line=False, points=True, colour=colour))
    return Plot(caption, TIME, FRACTION, marks)


def energy_plot(time_ps: np.ndarray, deviation: np.ndarray, names: Sequence[str]) -> Plot:
    """Total energy (s, r) of replicas less that at the start, kcal/mol."""
    marks = [Line(time_ps, column, name) for name, column in zip(names, deviation.T, strict=True)]
    caption = "Total energy without a thermostat"
    return Plot(caption, TIME, Axis("total energy − start, kcal/mol"), marks)


def _held(values: np.ndarray) -> np.ndarray:
    """From 1 at the start on, and as it was last at the end."""
    all_values = np.r_[1.0, values]
    return np.r_[all_values, all_values[-1]]


def _corners(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of a step that holds its value up to the next x."""
    return np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]
