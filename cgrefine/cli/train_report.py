"""Metrics, checks and page of the stage `train`."""

from collections.abc import Sequence
from itertools import pairwise

import jax
import numpy as np

from cgrefine.artifacts import Stage
from cgrefine.cli.train_member import Member
from cgrefine.config.schema import Config
from cgrefine.energy import Params
from cgrefine.fm.priors import parameters
from cgrefine.fm.train import EpochLog, Snapshot
from cgrefine.fm.validation import ForceErrors
from cgrefine.report import page
from cgrefine.report.plot import Axis, Level, Line, Mark, Plot

UNIT = "(kcal/mol/Å)²"


def record(stage: Stage, last: Snapshot, config: Config) -> None:
    """Metrics and checks of a training that ended. A metric of time or use is that of all its epochs."""
    assert config.train is not None
    log, metrics = last.progress.log, stage.record
    best, trained = log[last.progress.best_epoch].validation, log[1:]
    record_errors(stage, best)
    network = last.best["network"] if config.train.train_priors else last.best
    updates, skipped = sum(e.updates for e in trained), sum(e.skipped for e in trained)
    metrics.metric("seconds_per_step", float(np.median([e.seconds for e in trained])), "s")
    metrics.metric("parameters", int(sum(np.size(leaf) for leaf in jax.tree.leaves(network))))
    metrics.metric("steps", updates)
    metrics.metric("best_epoch", last.progress.best_epoch)
    metrics.metric("slots_used_fraction", float(np.mean([e.slots_used for e in trained])))
    metrics.metric("waiting_fraction", _mean([e.waiting for e in trained]))
    metrics.metric("noise_scale", _mean([e.noise_scale for e in trained[-3:]]), "beads")
    metrics.metric("skipped_updates", skipped)
    metrics.metric("unusable_bead_fraction", _mean([e.unusable for e in trained]))
    metrics.check("val_below_prior", best.model < best.prior, best.model, best.prior)
    metrics.check("val_below_zero", best.model < best.zero, best.model, best.zero)
    metrics.check("no_skipped_updates", skipped == 0, skipped, 0)
    if config.train.train_priors:
        moved = float(np.sqrt(parameters.mean_square(last.best["priors"])))
        metrics.metric("prior_shift_rms", moved)


def record_errors(stage: Stage, errors: ForceErrors) -> None:
    """Validation errors: mean squares, their root, and what they explain."""
    metrics = stage.record
    metrics.metric("val_force_mse", errors.model, UNIT)
    metrics.metric("val_force_rmse", float(np.sqrt(errors.model)), "kcal/mol/Å")
    metrics.metric("val_force_mse_prior", errors.prior, UNIT)
    metrics.metric("val_force_mse_zero", errors.zero, UNIT)
    metrics.metric("val_explained_variance", 1.0 - errors.model / errors.zero)
    metrics.metric("val_explained_variance_of_prior", 1.0 - errors.model / errors.prior)


def write(stage: Stage, last: Snapshot, member: Member, config: Config) -> None:
    """The page of a training that ended."""
    log, progress = last.progress.log, last.progress
    best = log[progress.best_epoch]
    errors = best.validation
    loss = _loss_plot(log)
    page.save_plots(stage.path / "loss.png", loss)
    gain = (
        f"On {len(member.task.validation)} held-out frames the mean squared force error after epoch "
        f"{best.epoch} is {errors.model:.4g} {UNIT}, an RMSE of {np.sqrt(errors.model):.4g} kcal/mol/Å. The "
        f"priors alone have {errors.prior:.4g} (RMSE {np.sqrt(errors.prior):.4g}), no model at all "
        f"{errors.zero:.4g} (RMSE {np.sqrt(errors.zero):.4g}): the explained variance is "
        f"{1 - errors.model / errors.zero:.4f} of all, and {1 - errors.model / errors.prior:.4f} of what the "
        "priors leave."
    )
    columns = (
        "epoch", "optimisation", "updates", "training loss", "validation MSE", "RMSE", "learning rate",
        "noise scale, beads", "s per update", "waiting", "skipped",
    )  # fmt: skip
    rows = [
        (
            e.epoch, e.stage + 1, e.updates, e.train_loss, e.validation.model,
            float(np.sqrt(e.validation.model)), e.learning_rate, e.noise_scale, e.seconds, e.waiting,
            e.skipped,
        )
        for e in log
    ]  # fmt: skip
    noise = (
        "Noise scale: the number of beads in an update at which the noise of its gradient is as large as the "
        "gradient (McCandlish et al. 2018); updates of many fewer beads waste no data, of many more waste it."
    )
    sections = [
        page.Section("Result", gain, plots=(loss,)),
        page.Section("Epochs", noise, page.Table(columns, rows)),
        page.Section("Network", table=page.Table(("fact", "value"), list(member.facts.items()))),
        _prior_section(config, member, last),
    ]
    page.write_page(stage.path / "report.html", "Force matching", sections)


def write_prior_only(stage: Stage, errors: ForceErrors, frames: int) -> None:
    """The page of priors without a network."""
    text = (
        f"No network. The priors have a mean squared force error of {errors.prior:.4g} {UNIT} (RMSE "
        f"{np.sqrt(errors.prior):.4g} kcal/mol/Å) on {frames} held-out frames; no model at all has "
        f"{errors.zero:.4g}."
    )
    page.write_page(stage.path / "report.html", "Force matching", [page.Section("Result", text)])


def _mean(values: Sequence[float]) -> float:
    """Of those that are numbers; NaN without any."""
    kept = [v for v in values if np.isfinite(v)]
    return float(np.mean(kept)) if kept else float("nan")


def _prior_section(config: Config, member: Member, last: Snapshot) -> page.Section:
    """What became of the priors: left out, as they were fitted, or trained along."""
    assert config.model is not None and config.train is not None
    if not config.model.priors:
        return page.Section(
            "Priors", "None: the network alone (model.priors is false). Nothing else holds it."
        )
    if member.task.scaling is None:
        return page.Section("Priors", "As the stage `priors` fitted them.")
    moved: Params = last.best["priors"]
    text = (
        "Trained along with the network (train.train_priors), held by "
        f"{config.train.prior_penalty:g} · mean z². z is the deviation from what the stage `priors` fitted, "
        "in the units of fm/priors/parameters.py, of which one is a large change. The gate of that stage "
        "judged the priors before this."
    )
    rows = [
        (f"{term}.{name}", np.size(z), float(np.sqrt(np.mean(z**2))), float(np.abs(z).max()))
        for term, leaves in moved.items()
        for name, z in leaves.items()
    ]
    return page.Section("Priors", text, page.Table(("parameters", "number", "z, RMS", "z, largest"), rows))


def _loss_plot(log: Sequence[EpochLog]) -> Plot:
    trained = log[1:]
    epochs, losses = [e.epoch for e in trained], [e.train_loss for e in trained]
    marks: list[Mark] = [
        Line(epochs, losses, "training (decoys included)", points=True),
        Line([e.epoch for e in log], [e.validation.model for e in log], "validation", points=True),
        Level(log[0].validation.prior, "priors alone, validation"),
    ]
    marks += [
        Level(before.epoch + 0.5, vertical=True)
        for before, after in pairwise(trained)
        if after.stage != before.stage
    ]
    error = Axis(f"mean squared force error, {UNIT}")
    return Plot("Error by epoch", Axis("epoch", whole=True), error, marks)
