"""The tasks of `prepare`: each is a function of one picklable value, and writes at most its own files."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cgrefine.artifacts import fingerprint_of
from cgrefine.config.data import Data, ForceMap, Store
from cgrefine.data import plan
from cgrefine.data.aggregate import Aggregated, aggregate, noise_report
from cgrefine.data.force_pooled import PooledState, pooled_add, pooled_init
from cgrefine.data.force_pooled_map import PooledMap
from cgrefine.data.maps import window_sums
from cgrefine.data.molecule import prepared
from cgrefine.data.plan import Planned, Source
from cgrefine.data.source import select_runs
from cgrefine.data.store import finished, write_domain
from cgrefine.errors import InputError

SUMS = ".sums"
"""Folder of the pooled fit's sums, one file a protein, until the data set is complete."""


class SurveyJob(NamedTuple):
    """Look what is there."""

    source: Source
    temperatures_K: Sequence[float] | None


class SumsJob(NamedTuple):
    """One protein's share of the pooled map's normal equations; folder: of the unfinished data set."""

    planned: Planned
    folder: Path
    data: Data
    options: ForceMap


class MapJob(NamedTuple):
    """One protein to the data set. before: a data set whose finished protein may be taken over.

    pooled, in_fit: the pooled map, and whether the protein was among those it was fitted on.
    """

    planned: Planned
    folder: Path
    before: Path
    data: Data
    options: ForceMap
    store: Store
    pooled: PooledMap | None = None
    in_fit: bool = False


class NoiseJob(NamedTuple):
    """All force maps compared on one protein."""

    planned: Planned
    data: Data
    options: ForceMap
    pooled: PooledMap | None


def survey(job: SurveyJob) -> list[Planned]:
    """See `plan.survey`."""
    return plan.survey(job.source, job.temperatures_K)


def pooled_sums(job: SumsJob) -> Path:
    """Sums of one protein, in a file that is whole or absent; one that is there already is not made again."""
    work = _identity("sums", job.planned, job.data, job.options, {})
    path = job.folder / SUMS / f"{job.planned.name}-{work[:16]}.npz"
    if not path.exists():
        domain = plan.read(job.planned)
        runs = select_runs(domain, job.data.temperatures_K)
        molecule = prepared(domain, runs, job.planned.held_from, job.data, job.options)
        path.parent.mkdir(exist_ok=True)
        window_sums(molecule).save(path)
    return path


def pooled_fit(paths: Sequence[Path], ridge: float) -> PooledMap:
    """The pooled map of the sums of several proteins, added in the given order."""
    total = pooled_init()
    for path in paths:
        total = pooled_add(total, PooledState.load(path))
    try:
        return total.fit(ridge)
    except ValueError as error:
        raise InputError(f"force_map.kind = pooled: {error}") from error


def map_domain(job: MapJob) -> dict[str, Any]:
    """The entry of one protein in the data set: taken over when its work is done already, else made."""
    planned = job.planned
    pooled = "" if job.pooled is None else job.pooled.digest
    extra = {"store": job.store.model_dump(mode="json"), "pooled": pooled, "in_fit": job.in_fit}
    work = _identity("map", planned, job.data, job.options, extra)
    target = job.folder / "domains" / planned.name
    for folder in (job.folder, job.before):
        entry = finished(folder, planned.name)
        if entry is not None and entry["work"] == work:
            if folder != job.folder:
                _take_over(folder / "domains" / planned.name, target)
            return entry
    if target.exists():  # of other work
        shutil.rmtree(target)
    domain = plan.read(planned)
    runs = select_runs(domain, job.data.temperatures_K)
    result = aggregate(domain, runs, planned.held_from, job.data, job.options, job.pooled, job.in_fit)
    return write_domain(
        job.folder,
        planned.name,
        result.mapping.topology.with_cis(result.cis_bonds),
        result.arrays,
        {"work": work, **_facts(planned, result)},
        positions=job.store.positions,
        forces=job.store.forces,
    )


def noise(job: NoiseJob) -> dict[str, Any]:
    """See `aggregate.noise_report`."""
    domain = plan.read(job.planned)
    runs = select_runs(domain, job.data.temperatures_K)
    return noise_report(domain, runs, job.planned.held_from, job.data, job.options, job.pooled)


def _identity(kind: str, planned: Planned, data: Data, options: ForceMap, extra: dict[str, Any]) -> str:
    """Hash of everything that the result of a task depends on."""
    chosen = data.model_dump(mode="json", include={"stride", "coordinate_limit_A", "modified_residues"})
    maps = options.model_dump(mode="json", exclude={"noise_report_domains", "pooled_map", "pooled_domains"})
    runs = {"runs": [list(run) for run in planned.runs], "held_from": list(planned.held_from)}
    return fingerprint_of(
        f"prepare.{kind}", {"data": chosen, "force_map": maps, **runs, **extra}, {"file": planned.digest}
    )


def _take_over(old: Path, new: Path) -> None:
    """Link the files of a finished protein (copy across file systems) under a temporary name, and rename."""
    temporary = new.with_name(f".{new.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(old, temporary, copy_function=_link_or_copy)
    if new.exists():
        shutil.rmtree(new)
    temporary.rename(new)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _facts(planned: Planned, result: Aggregated) -> dict[str, Any]:
    facts = {
        "source": Path(planned.source.name).name,
        "frames_left_out": result.left_out,
        "frames_validation": int(result.arrays["validation"].sum()),
        "temperatures_K": sorted({key.temperature_K for key in planned.runs}),
        "replicas": sorted({key.replica for key in planned.runs}),
        "bond_histogram": result.bond_histogram.tolist(),
    }
    if planned.coarse:
        # nothing was projected, so there is neither a basic map to compare with nor a condition to keep
        given = {"mean_square": result.held_out.optimal, "n_frames": result.held_out.n_frames}
        return {**facts, "forces_given": given}
    return {
        **facts,
        "n_atoms": result.n_atoms,
        "n_groups": result.n_groups,
        "force_mean_square": {
            "in_sample": result.in_sample._asdict(),
            "held_out": result.held_out._asdict(),
        },
        "identity_residual": result.identity_residual,
        "constraint_residual": result.constraint_residual,
    }
