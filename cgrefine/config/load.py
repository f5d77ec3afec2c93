"""YAML to a checked Config: overrides, errors a person can act on, and the resolved dump."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cgrefine.config.schema import Config
from cgrefine.errors import InputError

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""In C where PyYAML was built with it: ten times faster, and the same text."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `section.key=value` overrides, and check everything against the schema.

    Raises InputError (file, key, value, allowed) on a missing or malformed file, a misspelt key, or a
    value out of range; every fault is listed, nothing is computed.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(f"config {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"config {path}: not a text file") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"config {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise InputError(f"config {path}: must be a mapping of sections, found {type(raw).__name__}")
    for override in overrides:
        _apply(raw, override)
    return parse(raw, str(path))


def from_overrides(overrides: Sequence[str]) -> Config:
    """The defaults with `section.key=value` overrides, for commands that need no file; errors as above."""
    raw: dict[str, Any] = {}
    for override in overrides:
        _apply(raw, override)
    return parse(raw, "of the command line")


def parse(raw: dict[str, Any], source: str) -> Config:
    """Check a plain mapping against the schema; `source` names it in errors."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        faults = [_describe(fault) for fault in error.errors()]
        raise InputError(f"config {source}: " + "; ".join(faults)) from error


def dump(config: BaseModel) -> str:
    """The resolved configuration as YAML, defaults included."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=DUMPER, sort_keys=False)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override}: must have the form section.key=value")
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise InputError(f"--set {override}: {parent} is a value, not a section")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: {text!r} is not a YAML value") from error


def _describe(fault: Any) -> str:
    location = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        names = _names_at(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), names, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{location}: unknown key{hint}; choose from {', '.join(names)}"
    if fault["type"] == "missing":
        return f"{location}: required, and not given"
    value = fault["input"]
    shown = "" if isinstance(value, dict) else f" = {value!r}"
    return f"{location}{shown}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _names_at(location: Sequence[Any]) -> list[str]:
    model: Any = Config
    for part in location:
        if isinstance(part, int):  # a place in a list of sections
            continue
        annotation = model.model_fields[part].annotation
        model = next(_sections_in(annotation))
    return sorted(model.model_fields)


def _sections_in(annotation: Any) -> Iterator[Any]:
    """Section classes inside an annotation such as `Section | None` or `Annotated[list[Section], ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _sections_in(inner)
