"""Figures of `cgrefine evaluate`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cgrefine.fm.evaluate import Neighbours, Row
from cgrefine.fm.force_products import Histograms

FORCE, SQUARE = "kcal/mol/Å", "(kcal/mol/Å)²"


def scatter(found: Histograms) -> Figure:
    """Predicted against reference components as a 2-D histogram, and the mean of each at the other."""
    fig = Figure(figsize=(5.6, 4.8), layout="constrained")
    ax = fig.add_subplot()
    top = found.edges[-1]
    counts = np.where(found.joint > 0, found.joint, np.nan)
    shown = ax.pcolormesh(
        found.edges, found.edges, counts.T, norm=LogNorm(vmin=1), cmap="viridis", rasterized=True
    )
    fig.colorbar(shown, label="components")
    centre = 0.5 * (found.edges[1:] + found.edges[:-1])
    ax.plot([-top, top], [-top, top], color="black", linewidth=0.8, label="equal")
    for axis, label, colour in (
        (0, "mean reference at a prediction", "C3"),
        (1, "mean prediction at a reference", "C1"),
    ):
        total = found.joint.sum(axis)
        known = total >= 30
        weights = centre[:, None] if axis == 0 else centre
        mean = (found.joint * weights).sum(axis)[known] / total[known]
        ax.plot(*((mean, centre[known]) if axis == 0 else (centre[known], mean)), color=colour, label=label)
    ax.set(
        xlim=(-top, top), ylim=(-top, top), aspect="equal",
        xlabel=f"reference component, {FORCE}", ylabel=f"predicted component, {FORCE}",
    )  # fmt: skip
    ax.legend(fontsize="small", loc="upper left")
    return fig


def distributions(found: Histograms) -> Figure:
    """Densities of reference, priors, whole force field and residual, on a logarithmic scale."""
    fig = Figure(figsize=(7, 3.6), layout="constrained")
    ax = fig.add_subplot()
    labels = {
        "reference": "reference",
        "priors": "priors",
        "full": "whole force field",
        "residual": "reference − whole",
    }
    for name, label in labels.items():
        counts = found.counts[name]
        if counts.any():
            density = counts / (counts.sum() * np.diff(found.edges))
            ax.stairs(np.where(density > 0, density, np.nan), found.edges, label=label, linewidth=1.2)
    ax.set(xlabel=f"force component, {FORCE}", ylabel="density", yscale="log")
    ax.legend(fontsize="small")
    return fig


def learning_curve(
    epoch: Sequence[float],
    training: Sequence[float],
    validation: Sequence[float],
    levels: Mapping[str, float],
) -> Figure:
    """Training loss and validation MSE; levels: name → MSE of what they are measured against."""
    fig = Figure(figsize=(7, 3.6), layout="constrained")
    ax = fig.add_subplot()
    ax.plot(epoch, training, "o-", markersize=3, label="training loss, decoys included")
    ax.plot(epoch, validation, "s-", markersize=3, label="validation")
    near = [v for v in (*training, *validation) if np.isfinite(v)]
    low, high = (
        min([*near, levels.get("noise floor, estimate", np.inf)]),
        max([*near, levels["priors alone"]]),
    )
    margin = 0.08 * (high - low)
    for index, (name, value) in enumerate(levels.items()):
        if value <= high + margin:
            ax.axhline(
                value, color=f"C{index + 2}", linestyle="--", linewidth=1, label=f"{name}, {value:.4g}"
            )
        else:
            ax.plot([], [], " ", label=f"{name}, {value:.4g}: above the figure")
    ax.set(xlabel="epoch", ylabel=f"mean square force error, {SQUARE}", ylim=(low - margin, high + margin))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def bars(rows: Sequence[Row], xlabel: str) -> Figure:
    """RMSE beside the reference RMS, and the explained variances, with standard errors."""
    fig = Figure(figsize=(max(7.0, 0.42 * len(rows) + 3.0), 5.2), layout="constrained")
    top, bottom = fig.subplots(2, 1, sharex=True)
    x = np.arange(len(rows))
    for ax, names in (
        (top, (("reference_rms", "no model"), ("rmse", "whole force field"))),
        (bottom, (("explained_variance_prior", "priors"), ("explained_variance", "whole force field"))),
    ):
        for index, (name, label) in enumerate(names):
            found = [getattr(row, name) for row in rows]
            error = [0.0 if np.isnan(e.stderr) else e.stderr for e in found]
            place = x + 0.4 * (index - 0.5)
            ax.bar(place, [e.value for e in found], 0.38, yerr=error, capsize=2, label=label)
        ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        ax.axhline(0.0, color="black", linewidth=0.8)
    top.set_ylabel(f"RMSE, {FORCE}")
    bottom.set_ylabel("explained variance")
    bottom.set_xticks(x, [row.group for row in rows], rotation=45 if len(rows) > 6 else 0)
    bottom.set_xlabel(xlabel)
    return fig


def neighbours(found: Neighbours) -> Figure:
    """Mean product of the residuals of near neighbours against their squared distance, extrapolated to 0."""
    fig = Figure(figsize=(6.4, 3.6), layout="constrained")
    ax = fig.add_subplot()
    delta = np.square(found.distance_A)
    mean = [c.value for c in found.covariance]
    ax.errorbar(
        delta, mean, [c.stderr for c in found.covariance], fmt="o", capsize=2, label="p-th nearest neighbour"
    )
    slope = np.polyfit(delta, mean, 1)[0]
    ends = np.array([0.0, delta[-1]])
    ax.plot(ends, found.unexplained.value + slope * ends, color="C1", label="extrapolated")
    ax.errorbar([0.0], [found.unexplained.value], [found.unexplained.stderr], fmt="s", color="C1", capsize=2)
    ax.axhline(0.0, color="black", linewidth=0.8)
    ax.set(xlabel="mean square distance of shapes, Å²", ylabel=f"product of residuals, {SQUARE}")
    ax.legend(fontsize="small")
    return fig
