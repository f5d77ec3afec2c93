"""What a prepared data set holds, and what a training step on it costs, as sections of a page."""

from collections.abc import Sequence
from pathlib import Path

from cgrefine.artifacts import read_json
from cgrefine.cli.console import Console
from cgrefine.cli.inspect_figures import force_table, forces_plot, lengths_plot, sequence_line
from cgrefine.cli.prepare_report import given_text, is_given, map_kind, split_text
from cgrefine.config.data import ForceMap, Split
from cgrefine.config.schema import Config
from cgrefine.data.force_statistics import ForceSums, sums_init, sums_step
from cgrefine.data.store import Dataset
from cgrefine.report.page import Section, Table
from cgrefine.residues import N_SPECIES

COLUMNS = ("domain", "residues", "frames", "validation", "left out", "breaks", "cis")
BLOCK_FRAMES = 256


def sections(
    dataset: Dataset, stride: int, verified: bool, estimate: Config | None, console: Console
) -> list[Section]:
    """Proteins, temperatures, bead forces by residue type; with a configuration, the cost of training."""
    entries = dataset.index["domains"]
    rows, lines = [], []
    for domain, entry in zip(dataset.domains, entries, strict=True):
        facts = (entry.get("frames_left_out", 0), len(entry["breaks"]), len(entry.get("cis_bonds", ())))
        rows.append((domain.name, domain.n_beads, domain.n_frames, int(domain.validation.sum()), *facts))
        segments = domain.segments
        line = sequence_line(
            domain.topology.species,
            domain.breaks,
            segments.temperature_K.tolist(),
            segments.replica.tolist(),
        )
        lines.append(f"{domain.name}: {line}")
    sums = _forces(dataset, stride, console)
    found = [
        Section(f"Data set {dataset.folder}", "\n".join(lines), Table(COLUMNS, rows)),
        Section(
            "Frames",
            _facts(dataset, verified),
            Table(("K", "frames", "validation"), _by_temperature(dataset)),
        ),
        Section(
            "Bead forces by residue",
            "kcal/mol/Å, by the map of the data set.",
            force_table(sums),
            plots=[forces_plot(sums), lengths_plot([domain.n_beads for domain in dataset.domains])],
        ),
    ]
    failures = _failures(dataset.folder)
    if failures:
        found.append(Section("Left out by prepare", "", Table(("name", "reason"), failures)))
    if estimate is not None:
        from cgrefine.cli.inspect_training import section

        found.append(section(dataset, estimate))
    return found


def _forces(dataset: Dataset, stride: int, console: Console) -> ForceSums:
    sums = sums_init(N_SPECIES)
    for domain in console.track(dataset.domains, total=len(dataset.domains), label="reading"):
        kind = domain.topology.species
        for start in range(0, domain.n_frames, BLOCK_FRAMES * stride):
            rows = slice(start, min(start + BLOCK_FRAMES * stride, domain.n_frames), stride)
            sums = sums_step(sums, domain.forces[rows], kind)
    return sums


def _facts(dataset: Dataset, verified: bool) -> str:
    entries = dataset.index["domains"]
    residue_frames = sum(e["n_frames"] * e["n_beads"] for e in entries)
    size = sum(array["bytes"] for e in entries for array in e["arrays"].values())
    checked = "every byte is as it was written." if verified else "content not verified (--verify)."
    text = (
        f"{residue_frames:,} residue-frames in {size / 1e6:,.1f} MB, {size / residue_frames:.2f} bytes each; "
        f"{checked}"
    )
    split, force_map = dataset.index.get("split"), dataset.index.get("force_map")
    if split is not None:
        text += f"\nValidation: {split_text(Split.model_validate(split))}"
    if force_map is not None:
        text += f"\nForces: {map_kind(ForceMap.model_validate(force_map))}."
    if given := sum(is_given(entry) for entry in entries):
        text += f"\nForces: {given_text(given)}"
    return text


def _by_temperature(dataset: Dataset) -> list[tuple[object, ...]]:
    total: dict[float, list[int]] = {}
    for domain in dataset.domains:
        s = domain.segments
        for temperature, count, held in zip(s.temperature_K, s.count, s.validation, strict=True):
            row = total.setdefault(float(temperature), [0, 0])
            row[0] += int(count)
            row[1] += int(count) if held else 0
    return [(f"{t:g}", *row) for t, row in sorted(total.items())]


def _failures(folder: Path) -> Sequence[tuple[object, ...]]:
    path = folder / "failures.json"
    if not path.is_file():
        return []
    return [(failed["name"], failed["reason"]) for failed in read_json(path)["failed"]]
