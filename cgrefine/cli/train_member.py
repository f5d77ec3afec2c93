"""One network: trained from where its checkpoints are, and written into a folder of its own."""

import csv
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cgrefine import distributed, units
from cgrefine.cli.console import Bar, Console
from cgrefine.cli.signals import asked_to_end
from cgrefine.cli.tensorboard import board as event_file
from cgrefine.config.data import Loader
from cgrefine.config.schema import Config
from cgrefine.config.training import Model, Train
from cgrefine.data.frames import FrameSet, frame_set, mean_neighbors
from cgrefine.data.store import Dataset, open_dataset
from cgrefine.energy import Params
from cgrefine.errors import InputError, Interrupted
from cgrefine.fm import checkpoints, forcefield, snapshots
from cgrefine.fm.forcefield import ForceField
from cgrefine.fm.models.registry import network_term
from cgrefine.fm.priors import parameters
from cgrefine.fm.priors.parameters import Scaling
from cgrefine.fm.step import FitInfo, parts
from cgrefine.fm.train import EpochLog, Event, Snapshot, Task, fit, single


class Sets(NamedTuple):
    """Training and validation frames."""

    training: FrameSet
    validation: FrameSet


@dataclass(frozen=True)
class Member:
    """A network with its data. prior: as it goes into the training; facts: of the network."""

    task: Task
    prior: ForceField
    facts: dict[str, Any]

    def force_field(self, best: Params) -> ForceField:
        """Prior and network with the parameters that a fit found."""
        network, trained = parts(best, single(self.task.prior_params), self.task.scaling)
        prior = self.prior
        if self.task.scaling is not None:
            prior = ForceField(prior.facts, jax.tree.map(np.asarray, trained))
        return forcefield.with_network(prior, self.facts, jax.tree.map(np.asarray, network))


class Job(NamedTuple):
    """One member to be trained. folder: its own, in that of the stage; fingerprint: of the stage."""

    config: Config
    root: Path
    folder: Path
    seed: int
    fingerprint: str


def member_of(config: Config, root: Path) -> Member:
    """Data and priors of the run folder, ready for a fit."""
    assert config.model is not None and config.train is not None
    prior = forcefield.load(root / "priors" / "forcefield")
    if not config.model.priors:
        prior = forcefield.without_priors(prior)
    cutoff_A = max(config.model.cutoff_A, prior.model.cutoff_A)
    sets = frame_sets(open_dataset(root / "prepare"), cutoff_A, config.loader)
    facts = network_facts(config.model, sets.training, float(prior.facts["temperature_K"]))
    scaling = _scaling(prior) if config.train.train_priors else None
    task = Task(network_term(facts), prior.model, prior.params, sets.training, sets.validation, scaling)
    return Member(task, prior, facts)


def frame_sets(dataset: Dataset, cutoff_A: float, loader: Loader) -> Sets:
    """The validation frames are not weighted by temperature: they measure all of what was chosen.

    Raises InputError when a part is empty.
    """
    domains, choice = dataset.domains, (cutoff_A, loader.stride, loader.temperatures_K)
    training = frame_set(domains, False, *choice, loader.temperature_weights)
    validation = frame_set(domains, True, *choice)
    for name, frames in (("training", training), ("validation", validation)):
        if len(frames) == 0:
            raise InputError(f"{dataset.folder}: the split leaves no {name} frame (data.split, loader)")
    return Sets(training, validation)


def network_facts(model: Model, training: FrameSet, prior_K: float) -> dict[str, Any]:
    """Static facts of the network: the configuration's, and the mean number of neighbours in the data.

    One that is conditioned on temperature refers to that of the priors. Raises InputError when the frames
    have a single temperature, which cannot tell U from S.
    """
    facts = {**model.model_dump(), "avg_neighbors": mean_neighbors(training, model.cutoff_A)}
    if not model.entropy:
        return facts
    there = np.unique(training.pieces.temperature_K)
    if len(there) < 2:
        raise InputError(
            f"model.entropy: all training frames are at {there[0]:g} K, and it takes two temperatures to "
            "tell energy from entropy; see data.temperatures_K and loader.temperatures_K"
        )
    return {**facts, "reference_K": prior_K, "temperature_range_K": [float(there[0]), float(there[-1])]}


def _scaling(prior: ForceField) -> Scaling:
    kT = units.thermal_energy(float(prior.facts["temperature_K"]))
    return parameters.scaling(prior.facts["priors"], prior.params, kT)


def train_member(job: Job, console: Console | None = None) -> None:
    """Train a member to its end, or as far as its process lives; what is finished is not done again.

    Writes checkpoints/, tensorboard/, log.csv and forcefield/. Raises Interrupted after a signal that asks
    for an end, with a checkpoint written.
    """
    assert job.config.train is not None
    settings = job.config.train.model_copy(update={"seed": job.seed})
    trained(member_of(job.config, job.root), settings, job, console or Console(quiet=True))


def trained(member: Member, settings: Train, job: Job, console: Console) -> Snapshot:
    """See `train_member`; the last snapshot."""
    folder = job.folder / "checkpoints"
    start = checkpoints.found(folder, member.task, settings, job.fingerprint)
    if start is not None:
        at = start.progress
        console.say(f"seed {job.seed}: going on after {int(start.state.updates)} updates, epoch {at.epoch}")
    last = start
    with (
        snapshots.snapshots(folder, settings.keep_checkpoints) as manager,
        asked_to_end() as asked,
        _board(job.folder / "tensorboard") as board,
        console.bar(f"train {job.seed}") as bar,
    ):
        events = fit(member.task, settings, job.config.loader, start, stopping=lambda: asked() is not None)
        for event in events:
            _tell(bar, event, settings)
            board(event, settings.log_every_updates)
            ended = event.progress.stage == len(settings.optimisations)
            if event.stopped or ended or _due(event, settings):
                last = event.snapshot()
                checkpoints.write(manager, last, job.fingerprint)
            if event.stopped:
                epoch = event.progress.epoch + 1
                told = f"training was ended by a signal in epoch {epoch}, a checkpoint is written"
                raise Interrupted(asked() or signal.SIGTERM, told)
    assert last is not None
    if distributed.is_first():
        write_csv(job.folder / "log.csv", last.progress.log)
        forcefield.save(job.folder / "forcefield", member.force_field(last.best))
    return last


def _due(event: Event, settings: Train) -> bool:
    if event.log is not None:
        return event.log.epoch > 0 and event.log.epoch % settings.checkpoint_every_epochs == 0
    return event.progress.updates % settings.checkpoint_every_updates == 0


def _tell(bar: Bar, event: Event, settings: Train) -> None:
    progress = event.progress
    epochs = progress.epoch + progress.updates / max(event.updates, 1)
    bar(epochs, settings.all_epochs, f"validation {progress.log[-1].validation.model:.4g}")


@contextmanager
def _board(folder: Path) -> Iterator[Callable[[Event, int], None]]:
    """Yield a function that writes an event's numbers for TensorBoard; nothing but in the first process."""
    if not distributed.is_first():
        yield lambda event, every: None
        return
    with event_file(folder) as write:

        def tell(event: Event, every: int) -> None:
            if event.log is not None:
                scalars = _of_epoch(event.log)
            elif event.info is not None and event.progress.updates % every == 0:
                scalars = _of_update(event.info)
            else:
                return
            write(sum(entry.updates for entry in event.progress.log) + event.progress.updates, scalars)

        yield tell


def _of_update(info: FitInfo) -> dict[str, float]:
    return {
        "update/loss": float(info.loss),
        "update/gradient_norm": float(info.gradient_norm),
        "update/learning_rate": float(info.rate),
    }


def _of_epoch(log: EpochLog) -> dict[str, float]:
    return {
        "validation/force_mse": log.validation.model,
        "validation/force_rmse": float(np.sqrt(log.validation.model)),
        "train/loss": log.train_loss,
        "train/gradient_norm": log.gradient_norm,
        "train/learning_rate": log.learning_rate,
        "train/noise_scale_beads": log.noise_scale,
        "time/seconds_per_update": log.seconds,
        "time/waiting_share": log.waiting,
    }


COLUMNS = (
    "epoch", "optimisation", "updates", "train_loss", "val_force_mse", "val_force_rmse",
    "val_force_mse_prior", "val_force_mse_zero", "explained_variance", "explained_variance_of_prior",
    "gradient_norm", "learning_rate", "noise_scale_beads", "seconds_per_update", "waiting_fraction",
    "slots_used_fraction", "skipped_updates", "unusable_fraction",
)  # fmt: skip


def write_csv(path: Path, log: Sequence[EpochLog]) -> None:
    """The log of all epochs, one a row; a number that there is not is left out."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for e in log:
            model, prior, zero = e.validation
            numbers = (
                e.train_loss, model, np.sqrt(model), prior, zero, 1.0 - model / zero, 1.0 - model / prior,
                e.gradient_norm, e.learning_rate, e.noise_scale, e.seconds, e.waiting, e.slots_used,
            )  # fmt: skip
            shown = ["" if np.isnan(v) else f"{v:.6g}" for v in numbers]
            unusable = "" if np.isnan(e.unusable) else f"{e.unusable:.3g}"
            writer.writerow([e.epoch, e.stage + 1, e.updates, *shown, e.skipped, unusable])
    os.replace(temporary, path)
