"""`cgrefine evaluate`: force errors of the trained force field on the validation frames."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cgrefine.artifacts import Stage, read_json, write_json
from cgrefine.checkpoint import save_params
from cgrefine.cli import evaluate_figures as figures
from cgrefine.cli.console import Console
from cgrefine.config.schema import Config
from cgrefine.data.frames import FrameSet, frame_set
from cgrefine.data.store import Dataset, open_dataset
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.fm.blocks import Estimate
from cgrefine.fm.evaluate import Evaluation, Neighbours, Row, evaluate
from cgrefine.fm.noise_floor import MapBound, map_bounds
from cgrefine.report.page import Section, Table, save_plots, write_page
from cgrefine.report.plot import Plot

FORCE, SQUARE = "kcal/mol/Å", "(kcal/mol/Å)²"
ROW_COLUMNS = (
    "bead-frames", f"RMSE {FORCE}", f"MSE {SQUARE}", f"reference RMS {FORCE}", "explained variance",
    "over the priors", "priors alone", "network alone",
)  # fmt: skip
TERM_COLUMNS = (
    "term", f"RMS force {FORCE}", f"RMSE alone {FORCE}", f"MSE alone {SQUARE}", "explained variance alone",
    f"RMSE with all above {FORCE}", f"MSE with all above {SQUARE}", "explained variance with all above",
)  # fmt: skip
WHOLE_COLUMNS = ("forces predicted by", f"RMSE {FORCE}", f"MSE {SQUARE}", "explained variance")
FLOOR_COLUMNS = ("from", "side", f"RMSE {FORCE}", f"MSE {SQUARE}", "explainable variance", "bead-frames")
MAP_COLUMNS = (
    "molecule", f"⟨F²⟩ of the map in use {SQUARE}", "map with least", f"its ⟨F²⟩ {SQUARE}",
    f"noise at least {SQUARE}", "explainable at most",
)  # fmt: skip
MOST_ROWS = 100
"""Rows of a table on the page; all of them are in evaluation.json."""

NOTES = {
    "chain position": "Residues next to a chain end or break have surroundings of one side only.",
    "residue type": "",
    "temperature": "The force field has no temperature of its own: the mean force of a hotter frame is that "
    "of another potential of mean force.",
    "protein": "",
    "component": "Axes of the simulation box, which mean nothing: rows differ by chance, and where molecules "
    "hardly turned in these runs by more than their errors.",
    "local axis": "Axes of the three beads i-1, i, i+1, at a chain end of the three nearest: along i-1 to "
    "i+1, from bead i into the bend, and normal to the plane. Bonds act along the first, angles along the "
    "second, torsions along the third.",
}


class LearningCurve(NamedTuple):
    """Epochs of log.csv with their training loss and validation MSE, (kcal/mol/Å)²; NaN where not given."""

    epoch: list[float]
    training: list[float]
    validation: list[float]


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/ and train/; write evaluation.json, histograms.npz, figures, metrics and report.html."""
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
    has_network = force_field.facts["network"] is not None
    maps = _map_bounds(dataset, root)
    curve = learning_curve(root / "train" / "log.csv")
    _record(stage, result, has_network)
    write_json(stage.path / "evaluation.json", content(result, maps))
    save_params(stage.path / "histograms.npz", _arrays(result))
    plots = _plots(result, curve)
    for name, panels in plots.items():
        save_plots(stage.path / f"{name}.png", *panels)
    write_page(
        stage.path / "report.html",
        "Force errors on validation frames",
        _sections(result, maps, plots, frames, has_network),
    )


def learning_curve(log: Path) -> LearningCurve | None:
    """The curve of the training run; None without a log, as of priors alone. InputError on another file."""
    if not log.exists():
        return None
    columns = ("epoch", "train_loss", "val_force_mse")
    try:
        with log.open(newline="") as handle:
            rows = [[float(row[name] or "nan") for name in columns] for row in csv.DictReader(handle)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{log}: not the log of a training ({error!r}); run `cgrefine train` again"
        ) from error
    return LearningCurve(*([row[k] for row in rows] for k in range(3)))


def _map_bounds(dataset: Dataset, root: Path) -> list[MapBound]:
    """From prepare/noise.json, for the kind of map that made these forces; none where there is no comparison.

    Forces that were projected onto zero net force are not those of a map alone.
    """
    path, facts = root / "prepare" / "noise.json", dataset.index.get("force_map", {})
    if not path.is_file() or "kind" not in facts or facts.get("zero_net_force"):
        return []
    return map_bounds(read_json(path), facts["kind"])


def _record(stage: Stage, result: Evaluation, has_network: bool) -> None:
    record, metrics = stage.record, result.metrics
    for name, estimate in metrics.items():
        record.metric(name, estimate.value, unit=_unit(name), stderr=estimate.stderr)
    record.metric("frames", result.frames)
    record.metric("beads", result.beads)
    bound, near = result.floor_at_most, result.neighbours
    record.metric("noise_floor_mse_at_most", bound.value, unit=SQUARE, stderr=bound.stderr)
    if near is not None:
        for name, found in (
            ("noise_floor_mse", near.floor),
            ("noise_floor_rmse_kcal_mol_A", near.floor_rmse),
            ("unexplained_mse", near.unexplained),
            ("explainable_variance", near.explainable_variance),
        ):
            record.metric(name, found.value, unit=_unit(name), stderr=found.stderr)
        record.metric("noise_floor_beads", near.beads)
    mse, zero, prior = (metrics[name].value for name in ("force_mse", "force_mse_zero", "force_mse_prior"))
    record.check("below_zero_model", mse < zero, mse, zero)
    if has_network:
        record.check("below_prior", mse < prior, mse, prior)


def _unit(metric: str) -> str | None:
    return FORCE if "rmse" in metric else SQUARE if "mse" in metric else None


def content(result: Evaluation, maps: Sequence[MapBound]) -> dict[str, Any]:
    """evaluation.json: every table of the page in full."""
    near = result.neighbours
    return {
        "units": {"rmse": FORCE, "mse": SQUARE, "distance": "Å"},
        "breakdowns": {title: [plain(row) for row in rows] for title, rows in result.breakdowns.items()},
        "terms": [row._asdict() for row in result.terms],
        "noise_floor": {
            "at_most": plain(result.floor_at_most),
            "near_neighbours": None if near is None else plain(near),
            "maps": [{**bound._asdict(), "noise_at_least": bound.noise_at_least} for bound in maps],
        },
    }


def plain(value: Any) -> Any:
    """NamedTuples as dicts, all the way down."""
    if hasattr(value, "_asdict"):
        return {name: plain(part) for name, part in value._asdict().items()}
    return [plain(part) for part in value] if isinstance(value, tuple) else value


def _arrays(result: Evaluation) -> dict[str, Any]:
    found = result.histograms
    return {"edges_kcal_mol_A": found.edges, "counts": found.counts, "reference_by_full": found.joint}


def with_error(found: Estimate) -> str:
    """Value ± standard error; a dash for no value."""
    if not math.isfinite(found.value):
        return "–"
    error = f" ± {found.stderr:.2g}" if math.isfinite(found.stderr) else ""
    return f"{found.value:.4g}{error}"


def _plots(result: Evaluation, curve: LearningCurve | None) -> dict[str, tuple[Plot, ...]]:
    """Name of the PNG file → what is in it."""
    floor = None if result.neighbours is None else result.neighbours.floor.value
    found: dict[str, tuple[Plot, ...]] = {
        "scatter": (figures.scatter(result.histograms),),
        "distributions": (figures.distributions(result.histograms),),
        "chain_position": figures.bars(result.breakdowns["chain position"], "position in the chain"),
        "residue_type": figures.bars(result.breakdowns["residue type"], "residue type"),
        "temperature": figures.bars(result.breakdowns["temperature"], "temperature"),
    }
    if result.neighbours is not None:
        found["noise_floor"] = (figures.neighbours(result.neighbours),)
    if curve is not None:
        levels = {name: result.metrics[key].value for name, key in
                  (("no model", "force_mse_zero"), ("priors alone", "force_mse_prior"))}  # fmt: skip
        if floor is not None:
            levels["noise floor, estimate"] = floor
        found["learning_curve"] = (
            figures.learning_curve(curve.epoch, curve.training, curve.validation, levels),
        )
    return found


def _sections(
    result: Evaluation,
    maps: Sequence[MapBound],
    plots: dict[str, tuple[Plot, ...]],
    frames: FrameSet,
    has_network: bool,
) -> list[Section]:
    floor = Table(FLOOR_COLUMNS, _floor_rows(result))
    found = [
        Section(
            "Summary", _summary(result, has_network), Table(WHOLE_COLUMNS, _whole_rows(result, has_network))
        ),
        Section("Noise floor", _floor_text(result.neighbours), floor, plots=plots.get("noise_floor", ())),
    ]
    if maps:
        found.append(_maps_section(maps))
    found.append(
        Section("Predicted and reference forces", _histogram_text(result),
                plots=(*plots["scatter"], *plots["distributions"]))
    )  # fmt: skip
    if "learning_curve" in plots:
        text = "From train/log.csv; the lines are those of the validation frames."
        found.append(Section("Learning curve", text, plots=plots["learning_curve"]))
    found.append(Section("Terms, added in this order", _TERM_TEXT, Table(TERM_COLUMNS, result.terms)))
    for title, rows in result.breakdowns.items():
        found.append(_breakdown(title, rows, plots.get(title.replace(" ", "_"), ())))
    return found


_TERM_TEXT = (
    "A term alone can be worse than no model (below 0): terms balance each other, as bonds and repulsion do."
)


def _breakdown(title: str, rows: Sequence[Row], plots: Sequence[Plot]) -> Section:
    per_bead = 1 if title in ("component", "local axis") else 3
    text = NOTES[title]
    if len(rows) > MOST_ROWS:
        text += f" The first {MOST_ROWS} of {len(rows)} are shown."
    table = Table((title, *ROW_COLUMNS), [_cells(row, per_bead) for row in rows[:MOST_ROWS]])
    return Section(f"By {title}", text, table, plots=plots)


def _cells(row: Row, per_bead: int) -> tuple[object, ...]:
    return (row.group, row.components // per_bead, *(with_error(found) for found in row[2:]))


def _whole_rows(result: Evaluation, has_network: bool) -> list[tuple[object, ...]]:
    """RMSE beside MSE of nothing, the priors, the network and all of them."""
    found = result.metrics
    chosen = {
        "no model": ("force_rmse_zero_kcal_mol_A", "force_mse_zero", None),
        "priors alone": ("force_rmse_prior_kcal_mol_A", "force_mse_prior", "explained_variance_prior"),
    }
    if has_network:
        chosen["network alone"] = (
            "force_rmse_network_kcal_mol_A", "force_mse_network", "explained_variance_network"
        )  # fmt: skip
    chosen["whole force field"] = ("force_rmse_kcal_mol_A", "force_mse", "explained_variance")
    return [
        (name, *("–" if key is None else with_error(found[key]) for key in keys))
        for name, keys in chosen.items()
    ]


def _summary(result: Evaluation, has_network: bool) -> str:
    found, near = result.metrics, result.neighbours
    text = (
        f"{result.beads} bead-frames of {result.frames} validation frames; errors are per force component. "
        f"RMSE {with_error(found['force_rmse_kcal_mol_A'])} {FORCE}, MSE {with_error(found['force_mse'])} "
        f"{SQUARE}. Explained variance {with_error(found['explained_variance'])} against no model"
    )
    if has_network:
        text += f", {with_error(found['explained_variance_over_prior'])} against the priors alone"
    if near is not None:
        text += (
            f". By the estimate below {with_error(near.explainable_variance)} can be explained at all: the "
            "reference forces are instantaneous, the rest is their noise"
        )
    return (
        f"{text}. Standard errors are from a bootstrap over blocks of consecutive frames; those of explained "
        "variances are smaller than those of errors, which all change together with the frames drawn."
    )


def _floor_rows(result: Evaluation) -> list[tuple[object, ...]]:
    zero = result.metrics["force_mse_zero"].value
    rows = [
        _floor_row("best scaling of priors and network", "at most", result.floor_at_most, zero, result.beads)
    ]
    near = result.neighbours
    if near is not None:
        own = near.floor.value / (1.0 - near.explainable_variance.value)
        rows += [
            _floor_row("these and the near neighbours' residual", "at most", near.at_most, own, near.beads),
            _floor_row("near neighbours, extrapolated", "estimate", near.floor, own, near.beads),
            _floor_row("the whole force field, same beads", "for comparison", near.mse, own, near.beads),
        ]
    return rows


def _floor_row(name: str, side: str, mse: Estimate, zero: float, beads: int) -> tuple[object, ...]:
    rmse = Estimate(math.sqrt(mse.value), 0.5 * mse.stderr / math.sqrt(mse.value)) if mse.value > 0.0 else mse
    return (name, side, with_error(rmse), with_error(mse), 1.0 - mse.value / zero, beads)


def _floor_text(near: Neighbours | None) -> str:
    text = (
        "The noise floor is the mean square of what no force field of these beads can explain. At most: a "
        "function of the bead positions that was not trained on these frames explains the rest, so the floor "
        "cannot be higher, but for its standard error."
    )
    if near is None:
        return f"{text} No protein has enough frames at one temperature for an estimate from near neighbours."
    return (
        f"{text} Estimate: two frames in which the same five residues have nearly the same shape share their "
        "mean force but not their noise; the mean product of their residuals, extrapolated to equal shape, "
        f"is what a better model could still explain: {with_error(near.unexplained)} {SQUARE}. What depends "
        "on other residues, or changes over less than the distance of neighbours, counts as noise."
    )


def _maps_section(maps: Sequence[MapBound]) -> Section:
    text = (
        "From prepare/noise.json: all valid force maps have the same mean force, so the explainable part is "
        "at most the held-out mean square of the map that has least, and the noise of the map in use at "
        "least the difference. Training proteins, all temperatures. Zero says that the map in use is the "
        "best one, not that it has no noise."
    )
    rows = [
        (bound.molecule, bound.used, bound.best, bound.least, bound.noise_at_least, bound.least / bound.used)
        for bound in maps
    ]
    return Section("Noise floor from the force maps", text, Table(MAP_COLUMNS, rows))


def _histogram_text(result: Evaluation) -> str:
    found = result.histograms
    top, share = found.edges[-1], found.outside / (3 * result.beads)
    return (
        f"Components of the force on each bead. {100 * share:.2g} % of the reference components are beyond "
        f"± {top:.4g} {FORCE}, the range of the figures. Where the mean reference at a prediction is that "
        "prediction, forces have the right size; the mean prediction at a reference is smaller than it, "
        "because large reference forces are mostly noise."
    )
