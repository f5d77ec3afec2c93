"""Stage `train`: force matching of the network on top of the priors, one or an ensemble."""

import shutil
from pathlib import Path

import jax
import numpy as np

from cgrefine import distributed
from cgrefine.artifacts import Stage, write_json
from cgrefine.cli import train_report
from cgrefine.cli.console import Console
from cgrefine.cli.tasks import Failure, pool
from cgrefine.cli.train_member import Job, Member, frame_sets, member_of, train_member, trained
from cgrefine.config.data import Loader
from cgrefine.config.schema import Config
from cgrefine.config.training import Model, Train
from cgrefine.data.store import Dataset, open_dataset
from cgrefine.errors import InputError
from cgrefine.fm import checkpoints, ensemble, forcefield
from cgrefine.fm.evaluate import evaluate
from cgrefine.fm.forcefield import ForceField
from cgrefine.fm.train import Snapshot
from cgrefine.fm.validation import ForceErrors


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/ and priors/; write forcefield/, checkpoints/, tensorboard/, log.csv and report.html.

    An ensemble has the same of each member in members/SEED/. All processes that train together call this.
    """
    assert config.model is not None and config.train is not None
    _check(config.model, config.train)
    if config.model.name == "none":
        prior = forcefield.load(root / "priors" / "forcefield")
        _prior_only(stage, open_dataset(root / "prepare"), prior, config.train, config.loader)
        return
    jobs = [
        Job(config, root, _folder(stage.path, config.train, seed), seed, stage.fingerprint)
        for seed in seeds(config.train)
    ]
    member = member_of(config, root)
    snapshots = _all_trained(member, config, jobs, console)
    if not distributed.is_first():
        return
    best = int(np.argmin([s.progress.best_mse for s in snapshots]))
    if len(jobs) > 1:
        _ensemble(stage, config.train, member, jobs, snapshots, best)
    train_report.record(stage, snapshots[best], config)
    train_report.write(stage, snapshots[best], member, config)


def seeds(settings: Train) -> list[int]:
    """Of the members of the ensemble."""
    return [settings.seed + k for k in range(settings.ensemble.members)]


def _folder(stage: Path, settings: Train, seed: int) -> Path:
    return stage if settings.ensemble.members == 1 else stage / "members" / str(seed)


def _all_trained(member: Member, config: Config, jobs: list[Job], console: Console) -> list[Snapshot]:
    """The last snapshot of each member, trained here one after another, or side by side elsewhere."""
    assert config.train is not None
    settings = [config.train.model_copy(update={"seed": job.seed}) for job in jobs]
    if not config.train.ensemble.side_by_side:
        return [trained(member, s, job, console) for s, job in zip(settings, jobs, strict=True)]
    with pool(config.cluster, len(jobs)) as run:
        failed = [result.reason for _, result in run(train_member, jobs) if isinstance(result, Failure)]
    if failed:
        raise InputError(f"train: {len(failed)} of {len(jobs)} members failed; the first: {failed[0]}")
    found = [
        checkpoints.found(job.folder / "checkpoints", member.task, s, job.fingerprint)
        for s, job in zip(settings, jobs, strict=True)
    ]
    return [snapshot for snapshot in found if snapshot is not None]


def _ensemble(
    stage: Stage, settings: Train, member: Member, jobs: list[Job], snapshots: list[Snapshot], best: int
) -> None:
    """What the members say of each other, and the best of them in the place of a single network."""
    fields = [member.force_field(s.best) for s in snapshots]
    spread = ensemble.disagreement(fields, member.task.validation, settings.batch_beads)
    write_json(
        stage.path / "ensemble.json",
        {
            "seeds": [job.seed for job in jobs],
            "best": jobs[best].seed,
            "val_force_mse": [s.progress.best_mse for s in snapshots],
            "best_epoch": [s.progress.best_epoch for s in snapshots],
            "disagreement_kcal_mol_A": spread._asdict(),
        },
    )
    for name in ("forcefield", "tensorboard"):
        shutil.copytree(jobs[best].folder / name, stage.path / name, dirs_exist_ok=True)
    shutil.copy2(jobs[best].folder / "log.csv", stage.path / "log.csv")
    if settings.ensemble.save == "best":
        shutil.rmtree(stage.path / "members")
    errors = np.array([s.progress.best_mse for s in snapshots])
    record = stage.record
    record.metric("ensemble_members", len(jobs))
    record.metric(
        "ensemble_val_force_mse",
        float(errors.mean()),
        train_report.UNIT,
        float(errors.std(ddof=1) / np.sqrt(len(errors))),
    )
    record.metric("ensemble_force_std", spread.rms, "kcal/mol/Å")


def _check(model: Model, settings: Train) -> None:
    """Whether there is something to train. Raises InputError."""
    if model.name == "none" and not model.priors:
        raise InputError("config: model.priors is false and model.name is none: that leaves no energy at all")
    if settings.train_priors and (model.name == "none" or not model.priors):
        raise InputError(
            "config: train.train_priors needs a network (model.name is not none) and priors (model.priors is "
            "true); priors alone are fitted to forces by priors.refit"
        )
    if settings.ensemble.side_by_side and jax.process_count() > 1:
        raise InputError(
            "config: train.ensemble.side_by_side starts workers of its own; run it without --distributed"
        )


def _prior_only(stage: Stage, dataset: Dataset, prior: ForceField, settings: Train, loader: Loader) -> None:
    """model.name none: the priors go on unchanged, measured on the validation frames."""
    frames = frame_sets(dataset, prior.model.cutoff_A, loader).validation
    found = evaluate(prior.model, prior.params, frames, settings.batch_beads, loader).metrics
    errors = ForceErrors(*(found[name].value for name in ("force_mse", "force_mse_prior", "force_mse_zero")))
    forcefield.save(stage.path / "forcefield", prior)
    train_report.record_errors(stage, errors)
    for name in ("seconds_per_step", "parameters", "steps", "slots_used_fraction", "skipped_updates"):
        stage.record.metric(name, 0)
    stage.record.check("val_below_zero", errors.prior < errors.zero, errors.prior, errors.zero)
    train_report.write_prior_only(stage, errors, len(frames))
