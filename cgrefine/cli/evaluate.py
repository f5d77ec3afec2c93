"""`cgrefine evaluate`: force errors of the trained force field on the validation frames."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cgrefine.artifacts import Stage, write_json
from cgrefine.cli.console import Console
from cgrefine.config.schema import Config
from cgrefine.data.store import open_dataset
from cgrefine.fm import forcefield
from cgrefine.fm.evaluate import Evaluation, evaluate, species_rows, term_rows
from cgrefine.report.page import Section, Table, figure, write_page

FORCE, SQUARE = "kcal/mol/Å", "(kcal/mol/Å)²"
SPECIES_COLUMNS = ("residue", "beads", f"RMSE {FORCE}", "explained variance", "of the prior alone")
TERM_COLUMNS = ("term", f"RMS force {FORCE}", f"MSE after it {SQUARE}", "explained variance so far")


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/ and train/forcefield; write evaluation.json, metrics and report.html."""
    domains = open_dataset(root / "prepare").domains
    force_field = forcefield.load(root / "train" / "forcefield")
    batch_beads = 400 if config.train is None else config.train.batch_beads
    result = evaluate(force_field, domains, batch_beads=batch_beads)
    _record(stage, result)
    by_residue, by_term = species_rows(result), term_rows(result)
    write_json(
        stage.path / "evaluation.json",
        {
            "units": {"force": FORCE, "mse": SQUARE},
            "residues": [dict(zip(SPECIES_COLUMNS, row, strict=True)) for row in by_residue],
            "terms": [dict(zip(TERM_COLUMNS, row, strict=True)) for row in by_term],
        },
    )
    write_page(
        stage.path / "report.html",
        "Force errors on validation frames",
        [
            Section("Summary", text=_summary(result)),
            Section("Terms, added in this order", table=Table(TERM_COLUMNS, by_term)),
            Section("Residue types", table=Table(SPECIES_COLUMNS, by_residue), figures=[_bars(by_residue)]),
        ],
    )


def _record(stage: Stage, result: Evaluation) -> None:
    mse, error = result.mse, result.mse_stderr
    rmse = np.sqrt(mse[-1])
    record = stage.record
    record.metric("force_rmse_kcal_mol_A", rmse, unit=FORCE, stderr=error[-1] / (2 * rmse))
    record.metric("force_mse", mse[-1], unit=SQUARE, stderr=error[-1])
    record.metric("force_mse_prior", mse[result.prior_index], unit=SQUARE, stderr=error[result.prior_index])
    record.metric("force_mse_zero", mse[0], unit=SQUARE, stderr=error[0])
    record.metric("explained_variance", result.explained, stderr=result.explained_stderr)
    record.metric("explained_variance_prior", result.explained_prior)
    record.metric("beads", int(result.count.sum()))
    record.check("below_zero_model", mse[-1] < mse[0], mse[-1], mse[0])
    if "network" in result.terms:
        prior = mse[result.prior_index]
        record.check("below_prior", mse[-1] < prior, mse[-1], prior)


def _summary(result: Evaluation) -> str:
    mse, error = result.mse, result.mse_stderr
    return (
        f"Over {int(result.count.sum())} validation beads the mean square force error per component is "
        f"{mse[-1]:.4g} ± {error[-1]:.2g} {SQUARE} (RMSE {np.sqrt(mse[-1]):.4g} {FORCE}); the priors alone "
        f"leave {mse[result.prior_index]:.4g}, the zero model {mse[0]:.4g}. Explained variance "
        f"{result.explained:.3f} ± {result.explained_stderr:.3f}, of the priors alone "
        f"{result.explained_prior:.3f}. Standard errors come from consecutive blocks of frames. The "
        "reference forces are instantaneous, so their noise alone keeps the explained variance below one."
    )


def _bars(rows: list[tuple[str, int, float, float, float]]) -> str:
    fig = Figure(figsize=(8, 3), layout="constrained")
    ax = fig.add_subplot()
    x = np.arange(len(rows))
    ax.bar(x - 0.2, [row[3] for row in rows], width=0.4, label="priors + network")
    ax.bar(x + 0.2, [row[4] for row in rows], width=0.4, label="priors")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(x, [row[0] for row in rows])
    ax.set_ylabel("explained variance")
    ax.legend()
    return figure(fig)
