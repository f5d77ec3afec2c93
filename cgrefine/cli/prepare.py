"""`cgrefine prepare`: raw MD to the coarse-grained data set, one task a protein.

Every finished protein is whole in domains/<name>, with the hash of the work that it is the result of.
A prepare that was killed, or that gets more files, takes up what is finished, in its own unfinished folder
and in the data set that it replaces.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cgrefine.artifacts import Stage, write_json
from cgrefine.cli import prepare_report
from cgrefine.cli.console import Console
from cgrefine.cli.tasks import Failure, Run, pool
from cgrefine.config.data import Data, ForceMap
from cgrefine.config.schema import Config
from cgrefine.data import jobs
from cgrefine.data.force_pooled_map import PooledMap
from cgrefine.data.plan import Planned, refuse_doubles, sources, with_split
from cgrefine.data.store import write_index
from cgrefine.errors import InputError
from cgrefine.report.page import write_page

SHOWN_FAILURES = 20


class Failures:
    """Proteins that could not be prepared, with the reasons. The stage goes on without them."""

    def __init__(self, console: Console) -> None:
        self.found: list[dict[str, Any]] = []
        self._console = console

    def add(self, name: str, failure: Failure) -> None:
        """Note it, and tell the first ones."""
        self.found.append({"name": name, "reason": failure.reason, "wrong_input": failure.wrong_input})
        if len(self.found) <= SHOWN_FAILURES:
            self._console.result(f"left out: {name}: {failure.reason}")


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Write domains/<name>/, dataset.json, failures.json, report.html (pooled_map.json), and record metrics.

    Memory is bounded by one domain a worker. A protein that cannot be prepared is left out and listed;
    raises InputError when none can, or when one side of the split has no frame.
    """
    data = config.data
    if data is None:
        raise InputError("config: prepare needs the section `data`, which is not given")
    _keep_only_pieces(stage.path)
    found = sources(data)
    failures = Failures(console)
    with pool(config.cluster, len(found)) as run:
        plan = with_split(_surveyed(run, found, data, failures, console), data.split)
        pooled = _pooled_map(run, stage.path, plan, config, failures, console)
        entries = _mapped(run, stage.path, root / stage.name, plan, pooled, config, failures, console)
        noise = _noise(run, plan, pooled, config, failures)
    _remove_strangers(stage.path, {entry["name"] for entry in entries})
    write_json(stage.path / "failures.json", {"failed": failures.found})
    _refuse_one_sided(entries, data)
    given = sum(prepare_report.is_given(entry) for entry in entries)
    if given:
        console.result(f"{given} proteins are coarse-grained already: their forces are taken as given")
    force_map = None if given == len(entries) else config.force_map.model_dump()
    facts = {"split": data.split.model_dump(), "force_map": force_map}
    write_index(stage.path, entries, facts)
    write_json(stage.path / "noise.json", noise)
    prepare_report.record(stage.record, entries, len(failures.found))
    sections = prepare_report.sections(entries, noise, failures.found, data, config.force_map)
    write_page(stage.path / "report.html", "prepare: coarse-grained data set", sections)
    shutil.rmtree(stage.path / jobs.SUMS, ignore_errors=True)


def _surveyed(
    run: Run, found: Sequence[Any], data: Data, failures: Failures, console: Console
) -> list[Planned]:
    """Every molecule that can be read, in the order of the configuration."""
    work = [jobs.SurveyJob(source, data.temperatures_K) for source in found]
    results = _collected(run, jobs.survey, work, [s.name for s in found], failures, console, "survey")
    plan = [planned for _, several in results for planned in several]
    refuse_doubles(plan)
    return plan


def _pooled_map(
    run: Run,
    folder: Path,
    plan: Sequence[Planned],
    config: Config,
    failures: Failures,
    console: Console,
) -> PooledMap | None:
    """The pooled map: none, read from a file, or fitted on training domains and written for others."""
    options, data = config.force_map, config.data
    assert data is not None
    if options.kind != "pooled" or all(planned.coarse for planned in plan):
        return None
    if options.pooled_map is not None:
        fitted = PooledMap.load(Path(options.pooled_map).expanduser())
    else:
        chosen = _pooled_over(plan, options)
        work = [jobs.SumsJob(planned, folder, data, options) for planned in chosen]
        names = [planned.name for planned in chosen]
        results = _collected(run, jobs.pooled_sums, work, names, failures, console, "pooled map")
        fitted = jobs.pooled_fit([path for _, path in results], options.ridge)
    fitted.save(folder / "pooled_map.json")
    return fitted


def _pooled_over(plan: Sequence[Planned], options: ForceMap) -> list[Planned]:
    """The proteins that a pooled map is fitted on: none when it comes from a file."""
    if options.kind != "pooled" or options.pooled_map is not None:
        return []
    able = [planned for planned in plan if planned.in_training and not planned.coarse]
    return able[: options.pooled_domains]


def _mapped(
    run: Run,
    folder: Path,
    before: Path,
    plan: Sequence[Planned],
    pooled: PooledMap | None,
    config: Config,
    failures: Failures,
    console: Console,
) -> list[dict[str, Any]]:
    """The entry of every prepared protein, in the order of the plan."""
    assert config.data is not None
    lost = {failed["name"] for failed in failures.found}
    rest = [planned for planned in plan if planned.name not in lost]
    fitted = {planned.name for planned in _pooled_over(plan, config.force_map)}
    sections = (config.data, config.force_map, config.store)
    work = [jobs.MapJob(p, folder, before, *sections, pooled, p.name in fitted) for p in rest]
    names = [planned.name for planned in rest]
    results = _collected(run, jobs.map_domain, work, names, failures, console, "prepare")
    return [entry for _, entry in results]


def _noise(
    run: Run,
    plan: Sequence[Planned],
    pooled: PooledMap | None,
    config: Config,
    failures: Failures,
) -> list[dict[str, Any]]:
    """All maps compared on the smallest training proteins of at least two runs: see `force_noise`."""
    data, options = config.data, config.force_map
    assert data is not None
    lost = {failed["name"] for failed in failures.found}
    able = [p for p in plan if not p.coarse and p.name not in lost and sum(f > 0 for f in p.held_from) > 1]
    chosen = sorted(able, key=lambda p: (p.n_atoms, p.name))[: options.noise_report_domains]
    work = [jobs.NoiseJob(planned, data, options, pooled) for planned in chosen]
    names = [planned.name for planned in chosen]
    found = [(names[index], result) for index, result in sorted(run(jobs.noise, work))]
    return [
        {"name": name, "failed": result.reason} if isinstance(result, Failure) else {"name": name, **result}
        for name, result in found
    ]


def _collected(
    run: Run,
    function: Any,
    work: Sequence[Any],
    names: Sequence[str],
    failures: Failures,
    console: Console,
    label: str,
) -> list[tuple[str, Any]]:
    """(name, result) of the tasks that succeeded, in order. Raises InputError when none of them did."""
    results: dict[int, Any] = {}
    for index, result in console.track(run(function, work), total=len(work), label=label):
        if isinstance(result, Failure):
            failures.add(names[index], result)
        else:
            results[index] = result
    if work and not results:
        first = failures.found[-len(work)]
        more = f" (and {len(work) - 1} more, all failed)" if len(work) > 1 else ""
        raise InputError(f"{label}: {first['reason']}{more}")
    return [(names[index], results[index]) for index in sorted(results)]


def _keep_only_pieces(folder: Path) -> None:
    """Of an unfinished prepare only finished proteins and sums are of use: they say what they are."""
    for path in folder.iterdir():
        if path.name in ("domains", jobs.SUMS):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_strangers(folder: Path, names: set[str]) -> None:
    """Proteins in the unfinished folder that are no longer in the plan, and pieces of killed tasks."""
    for path in (folder / "domains").iterdir():
        if path.name not in names:
            shutil.rmtree(path)


def _refuse_one_sided(entries: Sequence[dict[str, Any]], data: Data) -> None:
    total = sum(entry["n_frames"] for entry in entries)
    held = sum(entry["frames_validation"] for entry in entries)
    if held in (0, total):
        raise InputError(
            f"data.split by {data.split.by}: {held} of {total} valid frames are for validation; both parts "
            "need some: change data.split or replace the damaged runs"
        )
