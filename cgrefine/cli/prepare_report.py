"""Metrics, checks and the page of `cgrefine prepare`, from the entries of the data set."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cgrefine.artifacts import Record
from cgrefine.config.data import Data, ForceMap, Split
from cgrefine.data.aggregate import BOND_EDGES_A
from cgrefine.report.page import Section, Table
from cgrefine.report.plot import Axis, Histogram, Line, Plot

CONDITION_LIMIT = 1e-10
UNIT = "(kcal/mol/Å)²"
MOST_ROWS = 200
"""Proteins in the page's table; all of them are in dataset.json."""

Entry = dict[str, Any]

COLUMNS = (
    "domain", "residues", "atoms", "frames", "validation", "left out", "breaks", "cis",
    "basic ⟨F²⟩", "mapped ⟨F²⟩", "ratio", "measured",
)  # fmt: skip


def is_given(entry: Entry) -> bool:
    """Whether the protein was coarse-grained already, so that its forces belong to no force map."""
    return "forces_given" in entry


def record(into: Record, entries: Sequence[Entry], n_failed: int) -> None:
    """Metrics and checks; those of the force map only where forces were mapped."""
    into.metric("frames", _total(entries, "n_frames"))
    into.metric("domains", len(entries))
    into.metric("domains_failed", n_failed)
    into.metric("residue_frames", sum(e["n_frames"] * e["n_beads"] for e in entries))
    into.metric("bytes_per_residue_frame", _bytes_per_residue_frame(entries), unit="B")
    into.metric("frames_validation", _total(entries, "frames_validation"))
    into.metric("frames_left_out", _total(entries, "frames_left_out"))
    into.metric("beads", _total(entries, "n_beads"))
    into.metric("cis_bonds", sum(len(e["cis_bonds"]) for e in entries))
    given, mapped = _parts(entries)
    if given:
        weights = [e["forces_given"]["n_frames"] * e["n_beads"] for e in given]
        mean = np.average([e["forces_given"]["mean_square"] for e in given], weights=weights)
        into.metric("domains_coarse", len(given))
        into.metric("force_mean_square_given", float(mean), unit=UNIT)
    if mapped:
        _record_map(into, mapped)
    into.check("domains_failed", n_failed == 0, n_failed, 0)


def _record_map(into: Record, entries: Sequence[Entry]) -> None:
    """force_map_ratio is on frames that the map was not fitted on, if there are some."""
    inside, outside = (pooled(entries, part) for part in ("in_sample", "held_out"))
    judged = outside if outside["n_frames"] else inside
    into.metric("force_map_ratio", judged["optimal"] / judged["basic"])
    if inside["n_frames"]:
        into.metric("force_map_ratio_in_sample", inside["optimal"] / inside["basic"])
    into.metric("force_map_held_out_frames", outside["n_frames"])
    into.metric("force_mean_square_basic", judged["basic"], unit=UNIT)
    into.metric("force_mean_square_mapped", judged["optimal"], unit=UNIT)
    for check, key in (("identity", "identity_residual"), ("constraints", "constraint_residual")):
        worst = max(e[key] for e in entries)
        into.check(f"force_map_{check}", worst <= CONDITION_LIMIT, worst, CONDITION_LIMIT)


def _parts(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """(proteins with forces as given, proteins with mapped forces)."""
    return [e for e in entries if is_given(e)], [e for e in entries if not is_given(e)]


def pooled(entries: Sequence[Entry], part: str) -> dict[str, float]:
    """Mean squares over all beads of all domains, and the number of frames. part: in_sample, held_out."""
    parts = [e["force_mean_square"][part] for e in entries]
    weights = np.asarray([p["n_frames"] * e["n_beads"] for p, e in zip(parts, entries, strict=True)], float)
    if not weights.any():
        return {"basic": 0.0, "optimal": 0.0, "n_frames": 0}
    means = {key: float(np.average([p[key] for p in parts], weights=weights)) for key in ("basic", "optimal")}
    return {**means, "n_frames": sum(p["n_frames"] for p in parts)}


def sections(
    entries: Sequence[Entry],
    noise: Sequence[Entry],
    failed: Sequence[Entry],
    data: Data,
    options: ForceMap,
) -> list[Section]:
    """The page: proteins, maps compared, figures, and what was left out."""
    shown = sorted(entries, key=lambda e: -e["n_frames"] * e["n_beads"])[:MOST_ROWS]
    given, mapped = _parts(entries)
    text = "Mean square force per component, (kcal/mol/Å)². "
    if mapped:
        text += (
            "The basic map sums the forces on each Cα and its hydrogens; this data set has "
            f"{map_kind(options)}. "
        )
    if given:
        text += f"{given_text(len(given))} "
    text += f"Validation: {split_text(data.split)}"
    if len(shown) < len(entries):
        text += f" The {len(shown)} largest of {len(entries)} proteins are shown."
    found = [Section("Proteins", text, Table(COLUMNS, [_row(e) for e in shown]))]
    if noise:
        found.append(_noise_section(noise))
    found.append(Section("Forces and bonds", plots=plots(entries)))
    if failed:
        rows = [(f["name"], f["reason"]) for f in failed]
        found.append(Section("Left out", "Also in failures.json.", Table(("name", "reason"), rows)))
    return found


def given_text(n_given: int) -> str:
    """What became of the forces of proteins that are coarse-grained already."""
    return (
        f"{n_given} proteins were read with one bead a residue: their forces are taken as given, no force "
        "map is fitted, and there is no basic map to compare them with."
    )


def map_kind(options: ForceMap) -> str:
    """The map in words."""
    cross = ", fitted for each replica on the other ones" if options.cross_fit else ", in-sample"
    return {
        "basic": "the basic map",
        "optimal": f"the map of least noise over all free groups{cross}",
        "windowed": f"the map of least noise within ±{options.window} residues{cross}",
        "pooled": f"the pooled residue-type map within ±{options.window} residues",
    }[options.kind]


def split_text(split: Split) -> str:
    """How validation frames were chosen, in one sentence; a split by frame carries its warning."""
    text = f"{split.validation_fraction:g} of the data, held out by {split.by}."
    if split.by == "frame":
        text += (
            " A split by frame: validation frames follow training frames of the same runs and are not "
            "independent of them, so that validation errors flatter the model."
        )
    return text


def _row(e: Entry) -> tuple[object, ...]:
    shown = e["name"], e["n_beads"]
    counts = (
        e["n_frames"], e["frames_validation"], e["frames_left_out"], len(e["breaks"]), len(e["cis_bonds"]),
    )  # fmt: skip
    if is_given(e):
        return (*shown, "–", *counts, "–", e["forces_given"]["mean_square"], "–", "as given")
    outside = e["force_mean_square"]["held_out"]
    judged = outside if outside["n_frames"] else e["force_mean_square"]["in_sample"]
    ratio, measured = judged["optimal"] / judged["basic"], "held out" if outside["n_frames"] else "in-sample"
    return (*shown, e["n_atoms"], *counts, judged["basic"], judged["optimal"], ratio, measured)


def _noise_section(noise: Sequence[Entry]) -> Section:
    rows = [
        (
            report["name"],
            name,
            *(row[key] for key in ("held_out", "in_sample", "removed", "identity", "constraint")),
        )
        for report in noise
        for name, row in report.get("maps", {}).items()
    ]
    rows += [(report["name"], f"failed: {report['failed']}") for report in noise if "failed" in report]
    columns = ("domain", "map", "held-out ⟨F²⟩", "in-sample ⟨F²⟩", "removed p/N", "W Mᵀ − I", "constraints")
    text = (
        "Every map on the smallest training proteins, fitted on all replicas but one and judged on that one, "
        "in turn. Removed is the share of signal and noise alike that fitting p coefficients on N samples "
        "takes out of the frames it was fitted on."
    )
    return Section("Maps compared", text, Table(columns, rows))


def plots(entries: Sequence[Entry]) -> list[Plot]:
    """Mean squares by both maps where forces were mapped; Cα-Cα distances of bonded residues."""
    _, mapped = _parts(entries)
    counts = np.sum([e["bond_histogram"] for e in entries], axis=0)
    seen = np.flatnonzero(counts)
    shown = slice(seen[0], seen[-1] + 1) if len(seen) else slice(len(counts))
    bonds = Plot(
        "Distances of bonded residues",
        Axis("Cα-Cα distance of bonded residues, Å"),
        Axis("count"),
        [Histogram(BOND_EDGES_A[shown.start or 0 : shown.stop + 1], counts[shown])],
    )
    return [_maps(mapped), bonds] if mapped else [bonds]


def _maps(entries: Sequence[Entry]) -> Plot:
    """Mean square force by both maps, a point a protein."""
    both = [e["force_mean_square"] for e in entries]
    judged = [m["held_out"] if m["held_out"]["n_frames"] else m["in_sample"] for m in both]
    top = 1.1 * max(m["basic"] for m in judged)
    marks = [
        Line(
            [m["basic"] for m in judged], [m["optimal"] for m in judged], "protein", line=False, points=True
        ),
        Line([0.0, top], [0.0, top], "no gain", dashed=True),
    ]
    return Plot(
        "Mean square force, a point a protein",
        Axis(f"basic map ⟨F²⟩, {UNIT}", limits=(0.0, top)),
        Axis(f"mapped ⟨F²⟩, {UNIT}", limits=(0.0, top)),
        marks,
    )


def _total(entries: Sequence[Entry], key: str) -> int:
    return sum(e[key] for e in entries)


def _bytes_per_residue_frame(entries: Sequence[Entry]) -> float:
    total = sum(array["bytes"] for e in entries for array in e["arrays"].values())
    return total / sum(e["n_frames"] * e["n_beads"] for e in entries)
