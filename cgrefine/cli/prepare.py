"""`cgrefine prepare`: raw all-atom MD to the coarse-grained data set, one domain at a time."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cgrefine.artifacts import Stage
from cgrefine.cli.console import Console
from cgrefine.config.schema import Config, Data
from cgrefine.data.aggregate import Aggregated, MeanSquares, aggregate
from cgrefine.data.mdcath import domain_names, expand, read_domain
from cgrefine.data.source import select_runs
from cgrefine.data.splits import RunKey, validation_runs
from cgrefine.data.store import write_domain, write_index
from cgrefine.errors import InputError
from cgrefine.report.page import Section, Table, figure, write_page

CONDITION_LIMIT = 1e-10
BOND_EDGES_A = np.linspace(2.6, 4.4, 91)


class Planned(NamedTuple):
    """A domain to be prepared: only its names, so that the plan of thousands of domains stays small."""

    path: Path
    name: str
    runs: tuple[RunKey, ...]


class Summary(NamedTuple):
    """What the page and the metrics need of a finished domain. bonds: histogram on BOND_EDGES_A."""

    entry: dict[str, Any]
    n_validation: int
    in_sample: MeanSquares
    held_out: MeanSquares
    residuals: tuple[float, float]
    bonds: np.ndarray


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read data.raw, write domains/<name>/*.npy, dataset.json and report.html, and record metrics.

    Memory is bounded by one domain. Raises InputError on any fault of the input but single bad frames.
    """
    data = config.data
    if data is None:
        raise InputError("config: prepare needs the section `data`, which is not given")
    plan = plan_domains(data)
    split = data.split
    keys = [key for planned in plan for key in planned.runs]
    flags = validation_runs(keys, split.by, split.validation_fraction, split.seed)
    validation = dict(zip(keys, flags, strict=True))
    summaries = []
    for planned in console.track(plan, total=len(plan), label="prepare"):
        domain = read_domain(planned.path, planned.name)
        held = [validation[key] for key in planned.runs]
        result = aggregate(domain, select_runs(domain, data.temperatures_K), held, data, config.force_map)
        entry = write_domain(
            stage.path, planned.name, result.mapping.topology, result.arrays, _facts(planned, result)
        )
        summaries.append(_summary(entry, result))
    n_validation = sum(s.n_validation for s in summaries)
    n_frames = sum(s.entry["n_frames"] for s in summaries)
    if n_validation in (0, n_frames):
        raise InputError(
            f"data.split by {split.by}: {n_validation} of {n_frames} valid frames are for validation; "
            "both parts need some: change data.split or replace the damaged runs"
        )
    write_index(
        stage.path,
        [s.entry for s in summaries],
        {"split": split.model_dump(), "force_map": config.force_map.model_dump()},
    )
    _record(stage, summaries)
    write_page(stage.path / "report.html", "prepare: coarse-grained data set", _sections(stage, summaries))


def plan_domains(data: Data) -> list[Planned]:
    """All domains of data.raw with their runs at the chosen temperatures.

    Raises InputError on files that cannot be read and on a domain that occurs twice.
    """
    plan: dict[str, Planned] = {}
    for path in expand(data.raw):
        for name in domain_names(path):
            if name in plan:
                raise InputError(
                    f"data.raw: domain {name} is in {plan[name].path} and in {path}; give it once"
                )
            runs = select_runs(read_domain(path, name), data.temperatures_K)
            plan[name] = Planned(path, name, tuple(RunKey(name, r.temperature_K, r.replica) for r in runs))
    return list(plan.values())


def _facts(planned: Planned, result: Aggregated) -> dict[str, Any]:
    return {
        "source": planned.path.name,
        "n_atoms": result.n_atoms,
        "frames_left_out": result.left_out,
        "temperatures_K": sorted({key.temperature_K for key in planned.runs}),
        "replicas": sorted({key.replica for key in planned.runs}),
        "force_mean_square": {
            "in_sample": result.in_sample._asdict(),
            "held_out": result.held_out._asdict(),
        },
    }


def _summary(entry: dict[str, Any], result: Aggregated) -> Summary:
    i, j = result.mapping.topology.bonds.T
    positions = result.arrays["positions"]
    lengths = np.linalg.norm(positions[:, j] - positions[:, i], axis=-1)
    return Summary(
        entry=entry,
        n_validation=int(result.arrays["validation"].sum()),
        in_sample=result.in_sample,
        held_out=result.held_out,
        residuals=(result.identity_residual, result.constraint_residual),
        bonds=np.histogram(lengths, BOND_EDGES_A)[0],
    )


def pooled(parts: list[tuple[MeanSquares, int]]) -> MeanSquares:
    """Mean squares over all beads of all domains. parts: (of one domain, its number of beads)."""
    weights = np.asarray([part.n_frames * beads for part, beads in parts], dtype=np.float64)
    if not weights.any():
        return MeanSquares(0.0, 0.0, 0)
    basic = np.average([part.basic for part, _ in parts], weights=weights)
    optimal = np.average([part.optimal for part, _ in parts], weights=weights)
    return MeanSquares(float(basic), float(optimal), sum(part.n_frames for part, _ in parts))


def _record(stage: Stage, summaries: list[Summary]) -> None:
    """Metrics and checks. force_map_ratio is on held-out frames where there are some, else in-sample."""
    record = stage.record
    entries = [s.entry for s in summaries]
    inside = pooled([(s.in_sample, s.entry["n_beads"]) for s in summaries])
    outside = pooled([(s.held_out, s.entry["n_beads"]) for s in summaries])
    judged = outside if outside.n_frames else inside
    record.metric("frames", sum(e["n_frames"] for e in entries))
    record.metric("domains", len(entries))
    record.metric("force_map_ratio", judged.optimal / judged.basic)
    record.metric("force_map_ratio_in_sample", inside.optimal / inside.basic)
    record.metric("force_map_held_out_frames", outside.n_frames)
    record.metric("force_mean_square_basic", judged.basic, unit="(kcal/mol/Å)²")
    record.metric("force_mean_square_optimal", judged.optimal, unit="(kcal/mol/Å)²")
    record.metric("frames_validation", sum(s.n_validation for s in summaries))
    record.metric("frames_left_out", sum(e["frames_left_out"] for e in entries))
    record.metric("beads", sum(e["n_beads"] for e in entries))
    identity, constraint = (max(s.residuals[k] for s in summaries) for k in (0, 1))
    record.check("force_map_identity", identity <= CONDITION_LIMIT, identity, CONDITION_LIMIT)
    record.check("force_map_constraints", constraint <= CONDITION_LIMIT, constraint, CONDITION_LIMIT)


def _sections(stage: Stage, summaries: list[Summary]) -> list[Section]:
    rows = []
    for s in summaries:
        judged = s.held_out if s.held_out.n_frames else s.in_sample
        rows.append(
            (
                s.entry["name"],
                s.entry["n_beads"],
                s.entry["n_atoms"],
                s.entry["n_frames"],
                s.n_validation,
                s.entry["frames_left_out"],
                len(s.entry["breaks"]),
                judged.basic,
                judged.optimal,
                judged.optimal / judged.basic,
                "held out" if s.held_out.n_frames else "in-sample",
            )
        )
    columns = (
        "domain", "residues", "atoms", "frames", "validation", "left out", "breaks",
        "basic ⟨F²⟩", "mapped ⟨F²⟩", "ratio", "measured",
    )  # fmt: skip
    ratio = stage.record.metrics["force_map_ratio"]
    text = (
        f"Mean square force per component, (kcal/mol/Å)²: the basic map sums the forces on each Cα and its "
        f"hydrogens, the optimal map has the least noise among the valid ones. Pooled ratio {ratio:.4f}. "
        "In-sample values are smaller than true by about the share (free groups)/(3 · frames)."
    )
    return [
        Section("Domains", text, Table(columns, rows)),
        Section("Forces and bonds", figures=(figure(_figure(summaries)),)),
    ]


def _figure(summaries: list[Summary]) -> Figure:
    """Left: mean square force by both maps, a point a domain. Right: Cα-Cα distances of bonded residues."""
    judged = [s.held_out if s.held_out.n_frames else s.in_sample for s in summaries]
    fig = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = fig.subplots(1, 2)
    left.plot([m.basic for m in judged], [m.optimal for m in judged], "o", alpha=0.7)
    top = 1.1 * max(m.basic for m in judged)
    left.plot([0, top], [0, top], color="0.6", lw=1, label="no gain")
    left.set(xlim=(0, top), ylim=(0, top), xlabel="basic map ⟨F²⟩, (kcal/mol/Å)²", ylabel="mapped ⟨F²⟩")
    left.legend(frameon=False)
    counts = np.sum([s.bonds for s in summaries], axis=0)
    right.stairs(counts, BOND_EDGES_A, fill=True, alpha=0.7)
    right.set(xlabel="Cα-Cα distance of bonded residues, Å", ylabel="count")
    return fig
