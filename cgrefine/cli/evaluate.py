"""`cgrefine evaluate`: force errors of the trained force field on the validation frames."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cgrefine.artifacts import Stage, write_json
from cgrefine.cli.console import Console
from cgrefine.config.schema import Config
from cgrefine.data.frames import frame_set
from cgrefine.data.store import open_dataset
from cgrefine.fm import forcefield
from cgrefine.fm.evaluate import Evaluation, ResidueRow, evaluate
from cgrefine.report.page import Section, Table, figure, write_page

FORCE, SQUARE = "kcal/mol/Å", "(kcal/mol/Å)²"
RESIDUE_COLUMNS = (
    "residue", "beads", f"RMSE {FORCE}", f"reference RMS {FORCE}", "explained variance", "of the prior",
)  # fmt: skip
TERM_COLUMNS = ("term", f"RMS force {FORCE}", f"MSE with all so far {SQUARE}", "explained variance so far")


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/ and train/forcefield; write evaluation.json, metrics and report.html."""
    dataset = open_dataset(root / "prepare")
    force_field = forcefield.load(root / "train" / "forcefield")
    batch_beads = max(domain.n_beads for domain in dataset.domains)
    if config.train is not None:
        batch_beads = max(batch_beads, config.train.batch_beads)
    loader = config.loader
    frames = frame_set(
        dataset.domains, True, force_field.model.cutoff_A, loader.stride, loader.temperatures_K
    )
    result = evaluate(force_field.model, force_field.params, frames, batch_beads, loader)
    _record(stage, result, force_field.facts["network"] is not None)
    write_json(
        stage.path / "evaluation.json",
        {
            "units": {"force": FORCE, "mse": SQUARE},
            "residues": [row._asdict() for row in result.residues],
            "terms": [row._asdict() for row in result.terms],
        },
    )
    write_page(
        stage.path / "report.html",
        "Force errors on validation frames",
        [
            Section("Summary", text=_summary(result)),
            Section("Terms, added in this order", table=Table(TERM_COLUMNS, result.terms)),
            Section(
                "Residue types",
                table=Table(RESIDUE_COLUMNS, result.residues),
                figures=[_bars(result.residues)],
            ),
        ],
    )


def _record(stage: Stage, result: Evaluation, has_network: bool) -> None:
    record, metrics = stage.record, result.metrics
    for name, estimate in metrics.items():
        unit = FORCE if "rmse" in name else SQUARE if "mse" in name else None
        record.metric(name, estimate.value, unit=unit, stderr=estimate.stderr)
    record.metric("frames", result.frames)
    record.metric("beads", result.beads)
    mse, zero, prior = (metrics[name].value for name in ("force_mse", "force_mse_zero", "force_mse_prior"))
    record.check("below_zero_model", mse < zero, mse, zero)
    if has_network:
        record.check("below_prior", mse < prior, mse, prior)


def _summary(result: Evaluation) -> str:
    found = result.metrics
    mse, explained = found["force_mse"], found["explained_variance"]
    return (
        f"Over {result.beads} beads of {result.frames} validation frames the mean square force error per "
        f"component is {mse.value:.4g} ± {mse.stderr:.2g} {SQUARE} "
        f"(RMSE {found['force_rmse_kcal_mol_A'].value:.4g} {FORCE}); the priors alone leave "
        f"{found['force_mse_prior'].value:.4g}, the zero model {found['force_mse_zero'].value:.4g}. "
        f"Explained variance {explained.value:.3f} ± {explained.stderr:.3f}, of the priors alone "
        f"{found['explained_variance_prior'].value:.3f}. Standard errors are from a bootstrap over blocks of "
        "consecutive frames. The reference forces are instantaneous, so their noise alone keeps the "
        "explained variance below one."
    )


def _bars(rows: Sequence[ResidueRow]) -> str:
    fig = Figure(figsize=(8, 3), layout="constrained")
    ax = fig.add_subplot()
    x = np.arange(len(rows))
    ax.bar(x - 0.2, [row.explained_variance for row in rows], width=0.4, label="whole force field")
    ax.bar(x + 0.2, [row.explained_variance_prior for row in rows], width=0.4, label="priors")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(x, [row.residue for row in rows])
    ax.set_ylabel("explained variance")
    ax.legend()
    return figure(fig)
