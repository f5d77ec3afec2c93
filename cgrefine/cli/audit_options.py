"""Options of `cgrefine audit`: a run, or force fields with a data set."""

from collections.abc import Sequence
from pathlib import Path

from cgrefine.cli.audit_model import audit_force_fields
from cgrefine.cli.console import Console
from cgrefine.cli.force_field import fitted_K
from cgrefine.cli.stages import result_rows
from cgrefine.config.load import from_overrides, load_config
from cgrefine.config.schema import Config
from cgrefine.errors import InputError


def check_options(config: Path | None, models: Sequence[str] | None, reference: Path | None) -> None:
    """Raise InputError unless there is a configuration, or a model with a reference."""
    if not models and reference is not None:
        raise InputError("audit: --reference is the data set for --model, which is not given")
    if not models and config is None:
        raise InputError("audit: nothing to audit; give a CONFIG of a run, or --model with --reference")
    if models and reference is None:
        raise InputError("audit: --model needs the data set that it is held against: give --reference")
    if models and len(set(models)) < len(models):
        raise InputError("audit: --model names a force field twice; each may be named once")


def audit_models(
    models: Sequence[str],
    reference: Path,
    config: Path | None,
    overrides: Sequence[str],
    out: Path,
    quiet: bool,
    *,
    force: bool,
    strict: bool,
    resume: bool,
) -> None:
    """Audit force fields, and show the result as a stage does."""
    console = Console(quiet)
    chosen = settings(models[0], config, overrides, console)
    audit_force_fields(models, reference, chosen, out, console, force=force, strict=strict, resume=resume)
    rows = result_rows(out, ["audit"])
    console.table(f"audit → {out / 'audit'}", ("stage", "result", "checks", "seconds"), rows)


def settings(model: str, config: Path | None, overrides: Sequence[str], console: Console) -> Config:
    """The configuration; without a file, the temperature is the one that the force field was fitted at.

    Raises InputError when the section `sim` is incomplete.
    """
    if config is not None:
        found = load_config(config, overrides)
    else:
        fitted = fitted_K(Path(model))
        if fitted is not None and not any(o.startswith("sim.temperature_K=") for o in overrides):
            console.result(f"temperature: {fitted:g} K, that of {model}")
            overrides = [f"sim.temperature_K={fitted}", *overrides]
        found = from_overrides(overrides)
    if found.sim is None:
        raise InputError("config: audit needs the section `sim`, which is not given")
    return found
