"""`cgrefine inspect`: what raw files, a prepared data set or a stage folder hold, on the screen or as a page.

Every kind of path is described by the same sections, so that both ways show the same numbers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cgrefine.artifacts import read_json
from cgrefine.cli import inspect_raw, inspect_store
from cgrefine.cli.console import Console
from cgrefine.config.data import Data
from cgrefine.config.schema import Config
from cgrefine.data.plan import sources
from cgrefine.data.store import open_dataset
from cgrefine.errors import InputError
from cgrefine.report.page import Section, Table, write_page


class Options(NamedTuple):
    """limit_A, stride: which frames are read, and which of them are bad. verify: compare all hashes.

    html: page to write. estimate: a configuration with `model` and `train`, to measure a training step with.
    """

    limit_A: float = 1.0e4
    stride: int = 1
    verify: bool = False
    html: Path | None = None
    estimate: Config | None = None


def inspect(paths: Sequence[str], options: Options, console: Console) -> None:
    """Show each path: a data set, a stage or run folder, or anything that data.raw may name.

    Raises InputError on anything that `prepare` would refuse, and on a data set that is damaged.
    """
    found: list[Section] = []
    for entry in paths:
        found += _sections(Path(entry), entry, options, console)
    _show(found, " ".join(paths), options.html, console)


def inspect_data(data: Data, options: Options, console: Console) -> None:
    """Show what a configuration's `data` names, trajectories in other formats included."""
    found = inspect_raw.sections(sources(data), data.temperatures_K, options.limit_A, options.stride, console)
    _show(found, "data of the configuration", options.html, console)


def _sections(path: Path, entry: str, options: Options, console: Console) -> list[Section]:
    if (path / "dataset.json").is_file():
        return _dataset(path, options, console) + _stage(path)
    if (path / "metrics.json").is_file():
        return _stage(path)
    stages = sorted(folder.parent for folder in path.glob("*/metrics.json")) if path.is_dir() else []
    stages = [folder for folder in stages if not folder.name.endswith(".previous")]
    if stages:
        prepared = [folder for folder in stages if (folder / "dataset.json").is_file()]
        shown = [section for folder in prepared for section in _dataset(folder, options, console)]
        return shown + [section for folder in stages for section in _stage(folder)]
    found = sources(Data(raw=[entry]))
    return inspect_raw.sections(found, None, options.limit_A, options.stride, console)


def _dataset(folder: Path, options: Options, console: Console) -> list[Section]:
    dataset = open_dataset(folder)
    if options.verify:
        dataset.verify(lambda name: console.say(f"verify {name}"))
    return inspect_store.sections(dataset, options.stride, options.verify, options.estimate, console)


def _stage(folder: Path) -> list[Section]:
    """Metrics and checks of a finished stage."""
    summary = read_json(folder / "metrics.json")
    try:
        rows = [(name, *_metric(value)) for name, value in summary["metrics"].items()]
        for name, check in summary["checks"].items():
            verdict = "passed" if check["passed"] else "FAILED"
            rows.append((f"check {name}", check["value"], f"limit {check['limit']:.4g}", verdict))
        text = f"Version {summary['version']}, {summary['seconds']} s."
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'metrics.json'}: is no metrics file of a stage ({error})") from error
    return [Section(f"Stage {folder}", text, Table(("metric", "value", "± or limit", "unit"), rows))]


def _metric(value: object) -> tuple[object, object, object]:
    if isinstance(value, dict):
        return value["value"], value.get("stderr", ""), value.get("unit", "")
    return value, "", ""


def _show(found: Sequence[Section], title: str, html: Path | None, console: Console) -> None:
    for section in found:
        if section.table is not None:
            console.table(section.heading, section.table.columns, section.table.rows)
        for line in section.text.splitlines():
            console.result(line)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        write_page(html, f"inspect: {title}", found)
        console.result(f"page: {html}")
