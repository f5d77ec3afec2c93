"""`cgrefine inspect`: what raw files or a prepared data set hold."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cgrefine.cli.console import Console
from cgrefine.data.mdcath import domain_names, expand, read_domain
from cgrefine.data.source import RawDomain, first_valid_frame, frame_blocks, valid_frames
from cgrefine.data.store import Dataset, open_dataset
from cgrefine.data.topology import bonds_from_geometry, map_to_beads
from cgrefine.residues import ONE_LETTER

BLOCK_FRAMES = 64

COLUMNS = ("domain", "residues", "atoms", "bonds", "runs", "frames", "bad", "breaks")
STORE_COLUMNS = ("domain", "residues", "frames", "validation", "left out", "breaks")


def inspect(paths: list[str], limit: float, console: Console) -> None:
    """Show each path: a stage or data set folder by its summary, anything else as raw mdCATH files.

    limit: coordinate limit in Å, beyond which a frame counts as bad. Every frame is read and checked.
    Raises InputError on anything that `prepare` would refuse.
    """
    for entry in paths:
        folder = Path(entry)
        if (folder / "dataset.json").is_file():
            _show_dataset(open_dataset(folder), console)
        elif (folder / "prepare" / "dataset.json").is_file():
            _show_dataset(open_dataset(folder / "prepare"), console)
        else:
            _show_raw(entry, limit, console)


def _show_raw(entry: str, limit: float, console: Console) -> None:
    rows, lines = [], []
    named = [(path, name) for path in expand([entry]) for name in domain_names(path)]
    for path, name in console.track(named, total=len(named), label="reading"):
        domain = read_domain(path, name)
        row, line = _describe(domain, limit)
        rows.append(row)
        lines.append((name, line))
    console.table(entry, COLUMNS, rows)
    for name, line in lines:
        console.result(f"{name}: {line}")


def _describe(domain: RawDomain, limit: float) -> tuple[tuple[object, ...], str]:
    """A table row, and a line with the sequence and where the frames come from."""
    frame, _ = first_valid_frame(domain, domain.runs, limit, 1, BLOCK_FRAMES)
    bonds = bonds_from_geometry(domain.atoms, frame) if domain.bonds is None else domain.bonds
    mapping = map_to_beads(domain.atoms, bonds, frame)
    bad = sum(
        int((~valid_frames(block.coords, block.forces, limit)).sum())
        for run in domain.runs
        for block in frame_blocks(domain, run, 1, BLOCK_FRAMES)
    )
    row = (
        domain.name,
        mapping.topology.n_beads,
        len(domain.atoms),
        len(bonds),
        len(domain.runs),
        sum(run.n_frames for run in domain.runs),
        bad,
        len(mapping.breaks),
    )
    line = _line(
        mapping.topology.species,
        mapping.breaks,
        [run.temperature_K for run in domain.runs],
        [run.replica for run in domain.runs],
    )
    return row, f"{line}, bonds from {'geometry' if domain.bonds is None else 'psf'}"


def _show_dataset(dataset: Dataset, console: Console) -> None:
    rows, lines = [], []
    for domain, entry in zip(dataset.domains, dataset.index["domains"], strict=True):
        line = _line(
            domain.topology.species,
            entry["breaks"],
            domain.temperature_K.tolist(),
            domain.replica.tolist(),
        )
        rows.append(
            (
                domain.name,
                domain.topology.n_beads,
                domain.n_frames,
                int(domain.validation.sum()),
                entry.get("frames_left_out", 0),
                len(entry["breaks"]),
            )
        )
        lines.append((domain.name, line))
    console.table(str(dataset.folder), STORE_COLUMNS, rows)
    for name, line in lines:
        console.result(f"{name}: {line}")


def _line(
    species: np.ndarray, breaks: Sequence[int], temperatures_K: Sequence[float], replicas: Sequence[int]
) -> str:
    """One-letter sequence with a slash at each chain break, temperatures and replicas."""
    sequence = "".join(("/" if i in breaks else "") + ONE_LETTER[s] for i, s in enumerate(species))
    at = " ".join(f"{t:g}" for t in sorted(set(temperatures_K)))
    return f"{sequence}; {at} K, replicas {' '.join(str(r) for r in sorted(set(replicas)))}"
