"""`cgrefine ablate`: priors alone, the network alone, and both, with the same data, budget and seeds.

prepare/ and priors/ are made once. Each variant and seed is a run folder of its own,
ablate/<variant>-<seed>/, that sees them through links, and in which the usual stages run: what is
complete is skipped, so an interrupted study goes on where it was.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cgrefine
from cgrefine.artifacts import write_json
from cgrefine.cli.ablate_report import rows_of, write_report
from cgrefine.cli.ablate_results import Ablation, ablation, content
from cgrefine.cli.ablate_runs import STAGES, Run, read_run, unobservable
from cgrefine.cli.console import Console
from cgrefine.cli.replicas import read_outcomes
from cgrefine.cli.stages import refuse_exchange, require_gate, run_stage
from cgrefine.config.load import dump
from cgrefine.config.schema import Config
from cgrefine.errors import InputError

FORMAT = 1
SHARED = ("prepare", "priors")


class Case(NamedTuple):
    """One variant with one seed: its resolved configuration, and its run folder."""

    variant: str
    seed: int
    config: Config
    folder: Path


def run_ablation(config: Config, root: Path, console: Console, allow_ungated: bool = False) -> None:
    """Train, simulate and observe every variant with every seed below root/ablate; write the comparison.

    Writes ablation.json, report.html and config.yaml there, and a table to the screen. A variant whose
    replicas all fail is a result. Raises InputError, with nothing computed, when the study makes no sense,
    and GateError, with nothing trained, when the priors failed their gate and allow_ungated is not set.
    """
    checked(config)
    for stage in SHARED:
        run_stage(stage, config, root, console)
    if "both" in config.ablate.variants and not allow_ungated:
        # its `train` asks too, but after hours of the other variants
        require_gate(root, config)
    planned = cases(config, root)
    for index, case in enumerate(planned):
        console.say(f"ablate: {case.variant}, seed {case.seed} ({index + 1} of {len(planned)})")
        run_case(case, console, allow_ungated)
    discard = config.observables.discard_fraction
    runs = [read_run(case.folder, case.variant, case.seed, discard) for case in planned]
    study = _written(root / "ablate", config, runs)
    console.table(f"ablate → {root / 'ablate'}", ("quantity", *study.variants), rows_of(study))
    console.result(f"page: {root / 'ablate' / 'report.html'}")


def checked(config: Config) -> None:
    """Raises InputError, one sentence, when a section is missing or the variants could not be compared."""
    missing = [name for name in ("data", "model", "train", "sim") if getattr(config, name) is None]
    if missing:
        raise InputError(f"config: ablate needs the section `{missing[0]}`, which is not given")
    assert config.model is not None
    refuse_exchange(config, "ablate")
    for name, values in (("seeds", config.ablate.seeds), ("variants", config.ablate.variants)):
        if len(set(values)) < len(values):
            raise InputError(f"config: ablate.{name} = {values}: each may be named once")
    if config.model.name == "none":
        raise InputError("config: model.name = 'none': ablate needs a network to leave out; choose allegro")
    if not config.model.priors:
        raise InputError("config: model.priors = False: ablate needs priors to leave out; set it to true")
    if "both" not in config.ablate.variants and config.ablate.loss_target is None:
        raise InputError(
            f"config: ablate.variants = {config.ablate.variants}: without `both` there is no default loss "
            "target; give ablate.loss_target, (kcal/mol/Å)²"
        )


def cases(config: Config, root: Path) -> list[Case]:
    """Every variant with every seed, in the order of the configuration."""
    return [
        Case(variant, seed, case_config(config, variant, seed), root / "ablate" / f"{variant}-{seed}")
        for variant in config.ablate.variants
        for seed in config.ablate.seeds
    ]


def case_config(config: Config, variant: str, seed: int) -> Config:
    """The configuration of one run: seeds of training and simulation, and what the variant leaves out."""
    assert config.model is not None and config.train is not None and config.sim is not None
    model: dict[str, Any] = {"priors": {"name": "none"}, "network": {"priors": False}, "both": {}}[variant]
    train: dict[str, Any] = {"seed": seed} if variant == "both" else {"seed": seed, "train_priors": False}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "train": config.train.model_copy(update=train),
            "sim": config.sim.model_copy(update={"seed": seed}),
        }
    )


def run_case(case: Case, console: Console, allow_ungated: bool) -> None:
    """All stages of one run. `observe` is left out when the simulation left no frame to look at."""
    link_shared(case.folder)
    discard = case.config.observables.discard_fraction
    for stage in STAGES:
        if stage == "observe":
            outcomes = read_outcomes(case.folder / "simulate" / "replicas.csv")
            if lost := unobservable(outcomes, discard):
                console.say(f"observe: no frame of {', '.join(lost)} was simulated, left out")
                continue
        run_stage(stage, case.config, case.folder, console, allow_ungated=allow_ungated)


def link_shared(folder: Path) -> None:
    """Make prepare and priors of the study visible below the folder of a run, by relative links.

    Raises InputError when something else is there under these names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        link, target = folder / name, Path("..") / ".." / name
        if link.is_symlink() and link.readlink() == target:
            continue
        if link.is_symlink() or link.exists():
            raise InputError(
                f"{link}: must be a link to {target}, which ablate makes; move it out of the way"
            )
        link.symlink_to(target, target_is_directory=True)


def _written(folder: Path, config: Config, runs: Sequence[Run]) -> Ablation:
    """Compare the runs, and write config.yaml, ablation.json and report.html."""
    assert config.train is not None
    study = ablation(runs, config.train.epochs, config.ablate.loss_target, config.audit.confidence)
    (folder / "config.yaml").write_text(dump(config))
    budget = _budget(config)
    write_json(
        folder / "ablation.json",
        {
            "format": FORMAT,
            "version": cgrefine.__version__,
            "budget": budget,
            **content(study),
        },
    )
    write_report(folder / "report.html", study, budget)
    return study


def _budget(config: Config) -> dict[str, Any]:
    """What every variant was given alike."""
    assert config.train is not None and config.sim is not None
    train, sim = config.train, config.sim
    return {
        "seeds": list(config.ablate.seeds),
        "epochs": train.epochs,
        "batch_beads": train.batch_beads,
        "learning_rate": train.learning_rate,
        "temperature_K": sim.temperature_K,
        "timestep_fs": "from the stiffest bond of each" if sim.timestep_fs is None else sim.timestep_fs,
        "integrator": sim.integrator,
        "friction_per_ps": sim.friction_per_ps,
        "replicas_per_seed": sim.replicas,
        "duration_ps": sim.duration_ps,
        "start": sim.start,
    }
