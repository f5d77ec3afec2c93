"""Stage `train`: force matching of the network on top of the priors."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] - made by protobuf
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] - made by protobuf
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from cgrefine import units
from cgrefine.artifacts import Stage
from cgrefine.cli.console import Console
from cgrefine.config.schema import Config, Loader, Model, Train
from cgrefine.data.frames import FrameSet, frame_set, mean_neighbors
from cgrefine.data.store import Dataset, open_dataset
from cgrefine.energy import Params
from cgrefine.errors import InputError
from cgrefine.fm import forcefield, snapshots
from cgrefine.fm.evaluate import evaluate
from cgrefine.fm.forcefield import ForceField
from cgrefine.fm.models.registry import network_term
from cgrefine.fm.priors import parameters
from cgrefine.fm.priors.parameters import Scaling
from cgrefine.fm.train import Epoch, ForceErrors, fit, parts, single
from cgrefine.report import page

UNIT = "(kcal/mol/Å)²"


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/ and priors/; write forcefield/, checkpoints/, tensorboard/, log.csv and report.html."""
    assert config.model is not None and config.train is not None
    dataset = open_dataset(root / "prepare")
    prior = forcefield.load(root / "priors" / "forcefield")
    _check(config.model, config.train)
    if config.model.name == "none":
        _prior_only(stage, dataset, prior, config.train, config.loader)
        return
    if not config.model.priors:
        prior = forcefield.without_priors(prior)
    sets = _frame_sets(dataset, max(config.model.cutoff_A, prior.model.cutoff_A), config.loader)
    facts = _network_facts(config.model, sets.training)
    scaling = _scaling(prior) if config.train.train_priors else None
    log = _fitted(stage, config.train, config.loader, sets, prior, facts, scaling, console)
    best = log[-1].snapshot.best_params
    network, trained = parts(best, single(prior.params), scaling)
    if scaling is not None:
        prior = ForceField(prior.facts, jax.tree.map(np.asarray, trained))
    forcefield.save(stage.path / "forcefield", forcefield.with_network(prior, facts, network))
    _write_csv(stage.path / "log.csv", log)
    _record(stage, log, network)
    moved = None if scaling is None else best["priors"]
    if moved is not None:
        stage.record.metric("prior_shift_rms", float(np.sqrt(parameters.mean_square(moved))))
    _report(stage, log, sets, facts, _prior_section(config, moved))


def _check(model: Model, settings: Train) -> None:
    """Whether there is something to train. Raises InputError."""
    if model.name == "none" and not model.priors:
        raise InputError("config: model.priors is false and model.name is none: that leaves no energy at all")
    if settings.train_priors and (model.name == "none" or not model.priors):
        raise InputError(
            "config: train.train_priors needs a network (model.name is not none) and priors (model.priors is "
            "true); priors alone are fitted to forces by priors.refit"
        )


def _scaling(prior: ForceField) -> Scaling:
    kT = units.thermal_energy(float(prior.facts["temperature_K"]))
    return parameters.scaling(prior.facts["priors"], prior.params, kT)


@dataclass(frozen=True)
class _Sets:
    """Training and validation frames."""

    training: FrameSet
    validation: FrameSet


def _frame_sets(dataset: Dataset, cutoff_A: float, loader: Loader) -> _Sets:
    """The validation frames are not weighted by temperature: they measure all of what was chosen."""
    domains, choice = dataset.domains, (cutoff_A, loader.stride, loader.temperatures_K)
    training = frame_set(domains, False, *choice, loader.temperature_weights)
    validation = frame_set(domains, True, *choice)
    for name, frames in (("training", training), ("validation", validation)):
        if len(frames) == 0:
            raise InputError(f"{dataset.folder}: the split leaves no {name} frame (data.split, loader)")
    return _Sets(training, validation)


def _network_facts(model: Model, training: FrameSet) -> dict:
    return {**model.model_dump(), "avg_neighbors": mean_neighbors(training, model.cutoff_A)}


def _fitted(
    stage: Stage,
    settings: Train,
    loader: Loader,
    sets: _Sets,
    prior: ForceField,
    facts: dict,
    scaling: Scaling | None,
    console: Console,
) -> list[Epoch]:
    """Run the fit, storing snapshots and TensorBoard scalars as it goes."""
    network, priors = network_term(facts), (prior.model, prior.params)
    epochs = fit(network, *priors, sets.training, sets.validation, settings, loader, scaling=scaling)
    log: list[Epoch] = []
    board = EventFileWriter(str(stage.path / "tensorboard"))
    with snapshots.snapshots(stage.path / "checkpoints", settings.keep_checkpoints) as manager:
        for entry in console.track(epochs, total=settings.epochs + 1, label="epochs"):
            _board(board, entry)
            due = entry.epoch % settings.checkpoint_every_epochs == 0 or entry.epoch == settings.epochs
            if entry.epoch and due:
                snapshots.write(manager, entry.snapshot)
            # one snapshot at a time in memory: only the last one is read later
            if log:
                log[-1] = log[-1]._replace(snapshot=entry.snapshot)
            log.append(entry)
    board.close()
    return log


def _board(board: EventFileWriter, entry: Epoch) -> None:
    scalars = {
        "validation/force_mse": entry.validation.model,
        "train/loss": entry.train_loss,
        "train/gradient_norm": entry.gradient_norm,
        "train/learning_rate": entry.learning_rate,
    }
    values = [
        Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items() if np.isfinite(value)
    ]
    step = int(entry.snapshot.state.step)
    board.add_event(Event(step=step, summary=Summary(value=values)))


COLUMNS = (
    "epoch", "steps", "train_loss", "val_force_mse", "val_force_mse_prior", "val_force_mse_zero",
    "gradient_norm", "learning_rate", "seconds_per_step", "slots_used_fraction", "skipped_updates",
)  # fmt: skip


def _write_csv(path: Path, log: Sequence[Epoch]) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for e in log:
            errors = (e.validation.model, e.validation.prior, e.validation.zero)
            numbers = (
                e.train_loss,
                *errors,
                e.gradient_norm,
                e.learning_rate,
                e.seconds_per_step,
                e.slots_used,
            )
            shown = ["" if np.isnan(v) else f"{v:.6g}" for v in numbers]
            writer.writerow([e.epoch, e.steps, *shown, e.skipped])


def _record(stage: Stage, log: Sequence[Epoch], network: Params) -> None:
    record, last = stage.record, log[-1]
    best = log[last.snapshot.best_epoch].validation
    _record_errors(stage, best)
    trained = log[1:]
    record.metric("seconds_per_step", float(np.median([e.seconds_per_step for e in trained])), "s")
    leaves = jax.tree.leaves(network)
    record.metric("parameters", int(sum(np.size(leaf) for leaf in leaves)))
    record.metric("steps", sum(e.steps for e in trained))
    record.metric("best_epoch", last.snapshot.best_epoch)
    record.metric("slots_used_fraction", float(np.mean([e.slots_used for e in trained])))
    record.metric("skipped_updates", last.skipped)
    record.check("val_below_prior", best.model < best.prior, best.model, best.prior)
    record.check("val_below_zero", best.model < best.zero, best.model, best.zero)
    record.check("no_skipped_updates", last.skipped == 0, last.skipped, 0)


def _record_errors(stage: Stage, errors: ForceErrors) -> None:
    stage.record.metric("val_force_mse", errors.model, UNIT)
    stage.record.metric("val_force_mse_prior", errors.prior, UNIT)
    stage.record.metric("val_force_mse_zero", errors.zero, UNIT)


def _prior_section(config: Config, moved: Params | None) -> page.Section:
    """What became of the priors: left out, as they were fitted, or trained along (moved: their z)."""
    assert config.model is not None and config.train is not None
    if not config.model.priors:
        return page.Section(
            "Priors", "None: the network alone (model.priors is false). Nothing else holds it."
        )
    if moved is None:
        return page.Section("Priors", "As the stage `priors` fitted them.")
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


def _report(stage: Stage, log: Sequence[Epoch], sets: _Sets, facts: dict, priors: page.Section) -> None:
    best = log[log[-1].snapshot.best_epoch]
    errors = best.validation
    fig = _loss_figure(log)
    page.save_figure(stage.path / "loss.png", fig)
    gain = (
        f"On {len(sets.validation)} held-out frames the mean squared force error after "
        f"epoch {best.epoch} is {errors.model:.4g} {UNIT}; the priors alone have {errors.prior:.4g} and no "
        f"model at all {errors.zero:.4g}. That is {errors.prior - errors.model:.4g} below the priors and "
        f"{errors.zero - errors.model:.4g} below no model."
    )
    settings = page.Table(("fact", "value"), [(k, v) for k, v in facts.items()])
    rows = [
        (e.epoch, e.steps, e.train_loss, e.validation.model, e.learning_rate, e.seconds_per_step) for e in log
    ]
    columns = ("epoch", "steps", "training loss", "validation MSE", "learning rate", "s per step")
    sections = [
        page.Section("Result", gain, figures=(page.figure(fig),)),
        page.Section("Epochs", table=page.Table(columns, rows)),
        page.Section("Network", table=settings),
        priors,
    ]
    page.write_page(stage.path / "report.html", "Force matching", sections)


def _loss_figure(log: Sequence[Epoch]) -> Figure:
    fig = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = fig.add_subplot()
    axes.plot(
        [e.epoch for e in log[1:]], [e.train_loss for e in log[1:]], "o-", label="training (decoys included)"
    )
    axes.plot([e.epoch for e in log], [e.validation.model for e in log], "s-", label="validation")
    axes.axhline(log[0].validation.prior, color="gray", linestyle="--", label="priors alone, validation")
    axes.set(xlabel="epoch", ylabel=f"mean squared force error, {UNIT}")
    axes.legend()
    return fig


def _prior_only(stage: Stage, dataset: Dataset, prior: ForceField, settings: Train, loader: Loader) -> None:
    """model.name none: the priors go on unchanged, measured on the validation frames."""
    frames = _frame_sets(dataset, prior.model.cutoff_A, loader).validation
    found = evaluate(prior.model, prior.params, frames, settings.batch_beads, loader).metrics
    errors = ForceErrors(*(found[name].value for name in ("force_mse", "force_mse_prior", "force_mse_zero")))
    forcefield.save(stage.path / "forcefield", prior)
    _record_errors(stage, errors)
    for name in ("seconds_per_step", "parameters", "steps", "slots_used_fraction", "skipped_updates"):
        stage.record.metric(name, 0)
    stage.record.check("val_below_zero", errors.prior < errors.zero, errors.prior, errors.zero)
    text = (
        f"No network. The priors have a mean squared force error of {errors.prior:.4g} {UNIT} on "
        f"{len(frames)} held-out frames; no model at all has {errors.zero:.4g}."
    )
    page.write_page(stage.path / "report.html", "Force matching", [page.Section("Result", text)])
