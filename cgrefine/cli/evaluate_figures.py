"""Plots of `cgrefine evaluate`."""

from collections.abc import Mapping, Sequence

import numpy as np

from cgrefine.fm.evaluate import Neighbours, Row
from cgrefine.fm.force_products import Histograms
from cgrefine.report.plot import Axis, Bars, HeatMap, Histogram, Level, Line, Mark, Plot

FORCE, SQUARE = "kcal/mol/Å", "(kcal/mol/Å)²"


def scatter(found: Histograms) -> Plot:
    """Predicted against reference components as a 2-D histogram, and the mean of each at the other."""
    top = found.edges[-1]
    limits = (-float(top), float(top))
    centre = 0.5 * (found.edges[1:] + found.edges[:-1])
    marks: list[Mark] = [
        HeatMap(found.edges, found.edges, found.joint, "components", log=True),
        Line(limits, limits, "equal", dashed=True),
    ]
    means = ((0, "mean reference at a prediction", 3), (1, "mean prediction at a reference", 1))
    for axis, name, colour in means:
        total = found.joint.sum(axis)
        known = total >= 30
        weights = centre[:, None] if axis == 0 else centre
        mean = (found.joint * weights).sum(axis)[known] / total[known]
        x, y = (mean, centre[known]) if axis == 0 else (centre[known], mean)
        marks.append(Line(x, y, name, colour=colour))
    return Plot(
        "Predicted against reference components",
        Axis(f"reference component, {FORCE}", limits=limits),
        Axis(f"predicted component, {FORCE}", limits=limits),
        marks,
        square=True,
    )


def distributions(found: Histograms) -> Plot:
    """Densities of reference, priors, whole force field and residual, on a logarithmic scale."""
    names = {
        "reference": "reference",
        "priors": "priors",
        "full": "whole force field",
        "residual": "reference − whole",
    }
    marks = []
    for key, name in names.items():
        counts = found.counts[key]
        if counts.any():
            density = counts / (counts.sum() * np.diff(found.edges))
            marks.append(Histogram(found.edges, np.where(density > 0, density, np.nan), name))
    return Plot(
        "Distribution of the components",
        Axis(f"force component, {FORCE}"),
        Axis("density, Å mol/kcal", log=True),
        marks,
    )


def learning_curve(
    epoch: Sequence[float],
    training: Sequence[float],
    validation: Sequence[float],
    levels: Mapping[str, float],
) -> Plot:
    """Training loss and validation MSE; levels: name → MSE of what they are measured against."""
    near = [v for v in (*training, *validation) if np.isfinite(v)]
    low = min([*near, levels.get("noise floor, estimate", np.inf)])
    high = max([*near, levels["priors alone"]])
    margin = 0.08 * (high - low)
    marks: list[Mark] = [
        Line(epoch, training, "training loss, decoys included", points=True),
        Line(epoch, validation, "validation", points=True),
    ]
    for name, value in levels.items():
        above = "" if value <= high + margin else ": above what is shown"
        marks.append(Level(value, f"{name}, {value:.4g}{above}"))
    return Plot(
        "Error by epoch",
        Axis("epoch", whole=True),
        Axis(f"mean square force error, {SQUARE}", limits=(low - margin, high + margin)),
        marks,
    )


def bars(rows: Sequence[Row], xlabel: str) -> tuple[Plot, Plot]:
    """RMSE beside the reference RMS, and the explained variances, with standard errors."""
    errors = (("reference_rms", "no model"), ("rmse", "whole force field"))
    explained = (("explained_variance_prior", "priors"), ("explained_variance", "whole force field"))
    return (
        _bars(rows, xlabel, f"RMSE by {xlabel}", f"RMSE, {FORCE}", errors),
        _bars(rows, xlabel, f"Explained variance by {xlabel}", "explained variance", explained),
    )


def _bars(
    rows: Sequence[Row], xlabel: str, caption: str, ylabel: str, fields: Sequence[tuple[str, str]]
) -> Plot:
    marks = []
    for field, name in fields:
        found = [getattr(row, field) for row in rows]
        marks.append(Bars([e.value for e in found], name, [e.stderr for e in found]))
    return Plot(caption, Axis(xlabel, names=[row.group for row in rows]), Axis(ylabel), marks)


def neighbours(found: Neighbours) -> Plot:
    """Mean product of the residuals of near neighbours against their squared distance, extrapolated to 0."""
    delta = np.square(found.distance_A)
    mean = [c.value for c in found.covariance]
    slope = np.polyfit(delta, mean, 1)[0]
    ends = np.array([0.0, delta[-1]])
    start = found.unexplained
    marks = [
        Line(delta, mean, "p-th nearest neighbour", [c.stderr for c in found.covariance], line=False,
             points=True),
        Line(ends, start.value + slope * ends, "extrapolated"),
        Line([0.0], [start.value], error=[start.stderr], line=False, points=True),
        Level(0.0),
    ]  # fmt: skip
    return Plot(
        "Products of the residuals of near neighbours",
        Axis("mean square distance of shapes, Å²"),
        Axis(f"product of residuals, {SQUARE}"),
        marks,
    )
