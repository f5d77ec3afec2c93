"""`cgrefine compare`: several force fields on the same validation frames, in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cgrefine
from cgrefine.artifacts import file_hash, write_json
from cgrefine.cli.console import Console
from cgrefine.cli.evaluate import FORCE, SQUARE, plain, with_error
from cgrefine.cli.force_field import force_field_folder
from cgrefine.config.schema import Config
from cgrefine.data.frames import frame_set
from cgrefine.data.store import Dataset, open_dataset
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.fm.compare import CONFIDENCE, Comparison, Contender, Errors, compare
from cgrefine.fm.forcefield import ForceField
from cgrefine.report.page import Section, Table, save_plots, write_page
from cgrefine.report.plot import Axis, Level, Line, Mark, Plot

FORMAT = 1
COLUMNS = (
    "force field", "parameters", "of the network", f"RMSE {FORCE}", f"MSE {SQUARE}", "explained variance",
    "over its priors", f"MSE − first {SQUARE}", "interval", "verdict", "held out",
)  # fmt: skip
ERROR_COLUMNS = (0, 3, 4, 5)
VERDICT_COLUMNS = (0, 7, 8, 9, 10)
"""Of COLUMNS: two narrow tables on the screen."""

BATCH_BEADS = 400
"""Beads of a batch without a configuration; more where a chain is longer."""


class Entry(NamedTuple):
    """A force field as it was named, its folder, and the data set of its run (None: it is in none)."""

    name: str
    folder: Path
    prepare: Path | None
    force_field: ForceField


def run_comparison(
    paths: Sequence[str], data: Path | None, config: Config, out: Path, console: Console
) -> None:
    """Write comparison.json, differences.png and report.html below `out`, and the table to the screen.

    data: a data set, or a run folder with one; that of the first force field when None. Raises InputError
    on a path without a force field, one that is named twice, and a missing data set.
    """
    entries = found_entries(paths)
    dataset = open_dataset(data_folder(data, entries[0]))
    batch_beads = BATCH_BEADS if config.train is None else config.train.batch_beads
    batch_beads = max(batch_beads, *(domain.n_beads for domain in dataset.domains))
    cutoff = max(entry.force_field.model.cutoff_A for entry in entries)
    loader = config.loader
    frames = frame_set(dataset.domains, True, cutoff, loader.stride, loader.temperatures_K)
    if not len(frames):
        raise InputError(f"{dataset.folder}: has no validation frame to compare force fields on")
    console.say(f"compare: {len(entries)} force fields on {len(frames)} frames")
    result = compare({e.name: e.force_field for e in entries}, frames, batch_beads, loader)
    held = {entry.name: held_out(entry, dataset) for entry in entries}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "comparison.json", content(result, entries, held, dataset))
    plot = differences(result)
    save_plots(out / "differences.png", plot)
    partial = out / ".report.html.partial"
    write_page(partial, "Force fields on the same frames", _sections(result, held, dataset, plot))
    partial.rename(out / "report.html")
    rows = _rows(result, held)
    for chosen, some in ((ERROR_COLUMNS, rows), (VERDICT_COLUMNS, rows[: len(held)])):
        shown = [[row[k] for k in chosen] for row in some]
        console.table(f"compare → {out}", [COLUMNS[k] for k in chosen], shown)
    console.result(f"page: {out / 'report.html'}")


def found_entries(paths: Sequence[str]) -> list[Entry]:
    """The force field of each path. Raises InputError when there is none, or fewer than two paths."""
    if len(paths) < 2:
        raise InputError(f"compare: {len(paths)} force field given, must be two or more")
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise InputError(f"compare: {twice[0]} is named twice; each force field may be named once")
    entries = []
    for name in paths:
        folder = force_field_folder(name)
        prepare = folder.resolve().parents[1] / "prepare"
        known = prepare if (prepare / "dataset.json").is_file() else None
        entries.append(Entry(name, folder, known, forcefield.load(folder)))
    return entries


def data_folder(data: Path | None, first: Entry) -> Path:
    """The folder of the data set. Raises InputError when there is none."""
    if data is None:
        if first.prepare is None:
            raise InputError(f"compare: {first.name} is in no run with a data set; give one with --data")
        return first.prepare
    found = [place for place in (data, data / "prepare") if (place / "dataset.json").is_file()]
    if not found:
        raise InputError(f"--data {data}: holds no data set (dataset.json); run `cgrefine prepare` first")
    return found[0]


def held_out(entry: Entry, dataset: Dataset) -> str:
    """Whether the frames were held out of the training of a force field, as far as its run can tell."""
    if entry.prepare is None:
        return "not known"
    same = file_hash(entry.prepare / "dataset.json") == file_hash(dataset.folder / "dataset.json")
    return "yes" if same else "other data set"


def content(
    result: Comparison, entries: Sequence[Entry], held: dict[str, str], dataset: Dataset
) -> dict[str, Any]:
    """comparison.json."""
    rows = []
    for entry, contender in zip(entries, result.contenders, strict=True):
        row = plain(contender)
        if contender.difference is not None:
            row["difference"]["significant"] = contender.difference.significant
        temperatures = {f"{t:g}": plain(errors) for t, errors in contender.by_temperature.items()}
        rows.append({**row, "by_temperature": temperatures, "held_out": held[entry.name]})
    return {
        "format": FORMAT,
        "version": cgrefine.__version__,
        "units": {"rmse": FORCE, "mse": SQUARE},
        "data": dataset.folder.name,
        "dataset_sha256": file_hash(dataset.folder / "dataset.json"),
        "confidence": CONFIDENCE,
        "frames": result.frames,
        "beads": result.beads,
        "force_fields": rows,
        **{name: plain(getattr(result, name)) for name in ("zero", "mean", "floor_at_most", "spread")},
    }


def verdict(contender: Contender) -> str:
    """Better or worse than the first force field, or not to be told apart from it."""
    difference = contender.difference
    if difference is None:
        return "the first"
    if not difference.significant:
        return "not told apart"
    return "better" if difference.mse.value < 0.0 else "worse"


def _errors(errors: Errors) -> tuple[str, ...]:
    return tuple(with_error(found) for found in errors)


def _rows(result: Comparison, held: dict[str, str]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for c in result.contenders:
        d = c.difference
        change = ("–", "–") if d is None else (with_error(d.mse), f"[{d.low:.3g}, {d.high:.3g}]")
        errors = _errors(c.errors) if c.network_parameters else (*_errors(c.errors)[:3], "–")
        numbers = (c.parameters, c.network_parameters)
        rows.append((c.name, *numbers, *errors, *change, verdict(c), held[c.name]))
    blank = ("–",) * 4
    rows.append(("mean of their predictions", "–", "–", *_errors(result.mean), *blank))
    rows.append(("no model", "–", "–", *_errors(result.zero)[:2], *blank, "–", "–"))
    return rows


def _sections(result: Comparison, held: dict[str, str], dataset: Dataset, plot: Plot) -> list[Section]:
    temperatures = list(result.contenders[0].by_temperature)
    columns = ("force field", *(f"{t:g} K: RMSE, MSE, explained variance" for t in temperatures))
    rows = [
        (c.name, *("; ".join(_errors(c.by_temperature[t])[:3]) for t in temperatures))
        for c in result.contenders
    ]
    return [
        Section("Comparison", _text(result, held, dataset), Table(COLUMNS, _rows(result, held))),
        Section("Differences to the first", plots=[plot]),
        Section("By temperature", f"{FORCE}; {SQUARE}.", Table(columns, rows)),
        Section("Noise floor", _floor_text(result)),
    ]


def _text(result: Comparison, held: dict[str, str], dataset: Dataset) -> str:
    text = (
        f"{result.beads} bead-frames of {result.frames} validation frames of {len(dataset.domains)} "
        f"proteins. Differences are paired: standard error and {100 * CONFIDENCE:g} % interval over blocks "
        "of frames that are drawn for all force fields alike, so they are far more certain than the errors "
        "themselves. A verdict is that of the interval; it is not corrected for the number of force fields, "
        "and says nothing of other training seeds."
    )
    doubtful = [name for name, state in held.items() if state != "yes"]
    if doubtful:
        text += f" These frames may be among those that {', '.join(doubtful)} was trained on."
    return text


def _floor_text(result: Comparison) -> str:
    return (
        f"The best combination of these predictions leaves {with_error(result.floor_at_most)} {SQUARE}: the "
        "noise of the reference forces is at most that, if the frames were held out. Half the mean square "
        f"difference of two of them is {with_error(result.spread)} {SQUARE}; where they are runs of one "
        "recipe, so much of the error of each is the chance of its training."
    )


def differences(result: Comparison) -> Plot:
    """MSE of each force field minus that of the first, with its interval, coloured by the verdict."""
    rest = [c for c in result.contenders if c.difference is not None]
    verdicts = [verdict(c) for c in rest]
    marks: list[Mark] = []
    for name, colour in (("better", 2), ("worse", 3), ("not told apart", 0)):
        chosen = [(k, c.difference) for k, c in enumerate(rest) if c.difference and verdicts[k] == name]
        if chosen:
            middle = [d.mse.value for _, d in chosen]
            error = ([d.mse.value - d.low for _, d in chosen], [d.high - d.mse.value for _, d in chosen])
            places = [k for k, _ in chosen]
            marks.append(Line(places, middle, name, error, line=False, points=True, colour=colour))
    return Plot(
        f"Mean square error less that of {result.contenders[0].name}: {100 * CONFIDENCE:g} % interval",
        Axis("force field", names=[c.name for c in rest], limits=(-0.5, len(rest) - 0.5)),
        Axis(f"MSE − first, {SQUARE}"),
        [*marks, Level(0.0)],
    )
