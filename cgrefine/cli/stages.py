"""The chain of stages: what each needs, whether its folder is still valid, and how it is run.

A stage module `cgrefine.cli.<name>` has one function, build(stage, config, root, console), that reads
the folders of earlier stages below root and writes its own. It is imported only when it runs.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgrefine import artifacts
from cgrefine.cli.console import Console, shown
from cgrefine.config.schema import Config
from cgrefine.errors import GateError, InputError


@dataclass(frozen=True)
class Spec:
    """A stage: the config sections its result depends on, and the stages whose folders it reads."""

    name: str
    sections: tuple[str, ...]
    needs: tuple[str, ...]
    headline: tuple[str, ...]


CHAIN = (
    Spec("prepare", ("data", "force_map", "store"), (), ("frames", "domains", "force_map_ratio")),
    Spec("priors", ("priors",), ("prepare",), ("stable_fraction", "steps", "kl_dihedral")),
    Spec("train", ("model", "train"), ("prepare", "priors"), ("val_force_mse", "seconds_per_step")),
    Spec(
        "evaluate",
        (),
        ("prepare", "train"),
        ("force_rmse_kcal_mol_A", "force_mse", "explained_variance", "explained_variance_over_prior"),
    ),
    Spec("simulate", ("sim",), ("prepare", "train"), ("replicas", "stable_fraction", "us_per_step")),
    Spec("observe", ("observables",), ("prepare", "simulate"), ()),
    Spec("audit", ("audit",), ("prepare", "train", "simulate"), ("stable_fraction", "nve_drift_kcal_mol_ns")),
    Spec(
        "refine",
        ("refine",),
        ("prepare", "train"),
        ("post.stable_fraction", "pre.stable_fraction", "survival_gain", "force_mse_growth"),
    ),
    Spec(
        "audit_refined",
        ("audit",),
        ("prepare", "refine"),
        ("stable_fraction", "nve_drift_kcal_mol_ns"),
    ),
    Spec("export", ("export",), ("prepare", "train"), ("selftest_max_force_error_kcal_mol_A",)),
    Spec(
        "lammps", ("lammps",), ("prepare", "train", "export"), ("max_force_error_kcal_mol_A", "us_per_step")
    ),
)
ALONE = (Spec("toy", ("toy",), (), ("refinement.right_before", "refinement.right_after")),)
"""Stages that no chain has: they read nothing, and nothing reads them."""

BY_NAME = {spec.name: spec for spec in (*CHAIN, *ALONE)}
OF_REFINEMENT = frozenset({"refine", "audit_refined"})
"""Stages that the chain leaves out without the section `refine`."""

OF_THE_FINAL_MODEL = frozenset({"export", "lammps"})
"""Stages that take the refined model in place of the trained one, where there is a section `refine`."""

RESUMED = frozenset({"prepare", "train", "simulate", "refine", "audit_refined"})
"""Stages that take up their own unfinished folder: each piece in it says what work it is the result of."""

EXTRA_SECTIONS = {
    "train": ("loader",),
    "evaluate": ("loader",),
    "observe": ("sim",),
    "audit": ("sim", "observables"),
    "audit_refined": ("sim", "observables"),
    "refine": ("sim", "observables", "audit", "train", "loader"),
    "lammps": ("sim",),
}
"""Sections that a stage reads besides its own; they reach its fingerprint through the stage it needs."""


def run_stage(
    name: str,
    config: Config,
    root: Path,
    console: Console,
    *,
    force: bool = False,
    strict: bool = False,
    allow_ungated: bool = False,
    resume: bool = True,
    model: Path | None = None,
) -> bool:
    """Run one stage unless its folder is complete for the same configuration and inputs.

    model: of `simulate` alone, the folder of another model than that of train, which is then not needed.

    resume: an unfinished folder of the same work is taken up where it was left. Processes that train together
    all call this; the first of them holds the folder.

    Returns True when it ran. Raises InputError when a section or an earlier stage is missing, and
    GateError under `strict` when one of the stage's checks failed, or when `train` would put a network on
    priors that have not passed their gate and allow_ungated is not set.
    """
    spec = BY_NAME[name]
    _check_sections(spec, config)
    inputs = {need: _fingerprint_of_folder(root, need, name) for need in _needs(spec, config, root, model)}
    given = {}
    if model is not None:
        from cgrefine.cli.force_field import identity

        inputs["model"], given = identity(model), {"model": model}
    if name == "prepare":
        inputs.update(_raw_hashes(config))
    if name == "refine":
        inputs.update(_target_hashes(config))
    if name == "lammps":
        inputs.update(_restart_hashes(config))
    sections = {s: _plain(getattr(config, s)) for s in (*spec.sections, *EXTRA_SECTIONS.get(name, ()))}
    fingerprint = artifacts.fingerprint_of(name, sections, inputs)
    if not force and artifacts.complete(root, name) == fingerprint:
        console.say(f"{name}: {root / name} is complete for this configuration, skipped")
        ran = False
    else:
        if name == "train" and not allow_ungated:
            require_gate(root, config)
        from cgrefine import distributed
        from cgrefine.versions import refuse_miscompiling

        refuse_miscompiling()
        console.say(f"{name} …")
        build = importlib.import_module(f"cgrefine.cli.{name}").build
        seed = _seed(config, name)
        again = resume and name in RESUMED
        if distributed.is_first():
            folder = artifacts.stage_folder(
                root, name, config, fingerprint, inputs, seed, device_kind(), resume=again
            )
        else:
            folder = artifacts.shared_folder(root, name, fingerprint)
        with folder as stage:
            distributed.together(f"{name} begins")
            build(stage, config, root, console, **given)
        distributed.together(f"{name} is written")
        ran = True
    if strict:
        enforce(root, name)
    return ran


def run_chain(
    config: Config,
    root: Path,
    console: Console,
    *,
    force: bool = False,
    strict: bool = False,
    allow_ungated: bool = False,
) -> list[tuple[str, bool]]:
    """All stages in order; the checks are enforced after the last, so that every result is written."""
    chain = chain_of(config)
    missing = [f"{s} (needed by {spec.name})" for spec in chain for s in spec.sections if _absent(config, s)]
    if missing:
        raise InputError(f"config: missing section {', '.join(missing)}")
    refuse_exchange(config, "the audit, with which the chain ends,")
    ran = [
        (spec.name, run_stage(spec.name, config, root, console, force=force, allow_ungated=allow_ungated))
        for spec in chain
    ]
    if strict:
        for spec in chain:
            enforce(root, spec.name)
    return ran


def chain_of(config: Config) -> list[Spec]:
    """The stages of a run, in order: those of refinement only with a section `refine`."""
    return [spec for spec in CHAIN if config.refine is not None or spec.name not in OF_REFINEMENT]


def refuse_exchange(config: Config, what: str) -> None:
    """Raise InputError when replicas do not stay at one temperature, which `what` takes for granted."""
    if config.sim is not None and config.sim.exchange is not None:
        raise InputError(
            f"sim.exchange: {what} judges replicas that stay at one temperature; leave the exchange out"
        )


def require_gate(root: Path, config: Config) -> None:
    """Raise GateError unless root/priors passed its gate with the parameters that are there now.

    Priors that no network is put on (model.name none), and a network without priors, need no gate.
    """
    assert config.model is not None
    if config.model.name == "none" or not config.model.priors:
        return
    way_out = "; change `priors`, or train with --allow-ungated"
    path = root / "priors" / "gate.json"
    if not path.is_file():
        raise GateError(f"train: {path} is not there: these priors were never gated{way_out}")
    verdict = artifacts.read_json(path)
    if verdict.get("parameters") != artifacts.file_hash(root / "priors" / "forcefield" / "params.npz"):
        raise GateError(f"train: {path} is of other parameters than those in {root / 'priors'}{way_out}")
    failed = {name: check for name, check in verdict["checks"].items() if not check["passed"]}
    if failed:
        told = "; ".join(
            f"{name}: found {'none' if c['value'] is None else shown(c['value'])}, allowed {c['sense']} "
            f"{shown(c['limit'])}"
            for name, c in failed.items()
        )
        raise GateError(f"train: the priors failed their gate ({told}){way_out}")


def result_rows(root: Path, names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """One row a stage for the result table: stage, headline metrics, checks, seconds."""
    rows = []
    for name in names:
        summary = artifacts.read_json(root / name / "metrics.json")
        metrics, checks = summary["metrics"], summary["checks"]
        keys = [k for k in BY_NAME[name].headline if k in metrics] or list(metrics)[:3]
        failed = [k for k, c in checks.items() if not c["passed"]]
        verdict = "–" if not checks else f"FAILED: {', '.join(failed)}" if failed else f"{len(checks)} passed"
        rows.append(
            (name, ", ".join(f"{k} {_value(metrics[k])}" for k in keys), verdict, shown(summary["seconds"]))
        )
    return rows


def _value(metric: Any) -> str:
    if not isinstance(metric, dict):
        return shown(metric)
    error = f" ± {shown(metric['stderr'])}" if "stderr" in metric else ""
    return f"{shown(metric['value'])}{error} {metric.get('unit', '')}".strip()


def enforce(root: Path, name: str) -> None:
    """Raise GateError when a check of a finished stage failed."""
    checks = artifacts.read_json(root / name / "metrics.json")["checks"]
    failed = {k: c for k, c in checks.items() if not c["passed"]}
    if failed:
        told = "; ".join(
            f"{k}: found {shown(c['value'])}, limit {shown(c['limit'])}" for k, c in failed.items()
        )
        raise GateError(f"{name} failed its checks ({told}); see {root / name}")


def _absent(config: Config, section: str) -> bool:
    return getattr(config, section) is None


def _check_sections(spec: Spec, config: Config) -> None:
    for section in (*spec.sections, *EXTRA_SECTIONS.get(spec.name, ())):
        if _absent(config, section):
            raise InputError(f"config: {spec.name} needs the section `{section}`, which is not given")


def _needs(spec: Spec, config: Config, root: Path, model: Path | None) -> tuple[str, ...]:
    """Stages whose folders are read: train not where `simulate` is given, or was given, another model, and
    refine in its place for what takes the final model."""
    other = model is not None or (spec.name == "audit" and (root / "simulate" / "model.json").is_file())
    refined = config.refine is not None and spec.name in OF_THE_FINAL_MODEL
    needs = ("refine" if refined and need == "train" else need for need in spec.needs)
    return tuple(need for need in needs if not (other and need == "train"))


def _fingerprint_of_folder(root: Path, need: str, name: str) -> str:
    artifacts.require(root, need, name)
    found = artifacts.complete(root, need)
    assert found is not None
    return found


def _raw_hashes(config: Config) -> dict[str, str]:
    """Hashes of the raw files; one that is not there is a failure of its protein, told by the stage."""
    from cgrefine.data.plan import sources

    assert config.data is not None
    paths = [path for source in sources(config.data) for path in source.files]
    listed = config.data.split.cath_list
    paths += [] if listed is None else [Path(listed).expanduser()]
    return _hashes(paths)


def _target_hashes(config: Config) -> dict[str, str]:
    """Hashes of the files that targets come from."""
    assert config.refine is not None
    return _hashes([t.file for t in config.refine.targets if t.file is not None])


def _restart_hashes(config: Config) -> dict[str, str]:
    """Hash of the file that a run in LAMMPS goes on from."""
    assert config.lammps is not None
    return _hashes([] if config.lammps.restart is None else [config.lammps.restart])


def _hashes(paths: Sequence[Path]) -> dict[str, str]:
    hashes = (artifacts.file_hash(path) if path.is_file() else "missing" for path in paths)
    return {f"{i}:{path.name}": digest for i, (path, digest) in enumerate(zip(paths, hashes, strict=True))}


def _plain(section: Any) -> Any:
    return section.model_dump(mode="json")


def _seed(config: Config, name: str) -> int | None:
    section = {
        "train": config.train,
        "simulate": config.sim,
        "priors": config.priors,
        "refine": config.refine,
        "audit_refined": config.sim,
        "lammps": config.lammps,
        "toy": config.toy,
    }
    chosen = section.get(name)
    return None if chosen is None else chosen.seed


def device_kind() -> str:
    """What JAX computes on."""
    import jax

    return jax.devices()[0].device_kind
