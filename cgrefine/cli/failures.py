"""failures/ of a simulation: failures.csv, and of each failure a PDB file with the frames before it."""

import csv
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgrefine.cli.replicas import Pack, Replica
from cgrefine.config.running import Sim
from cgrefine.errors import InputError
from cgrefine.sim import records
from cgrefine.sim.failures import Failure
from cgrefine.sim.rollout import Settings
from cgrefine.sim.trajectory import write_pdb

FRAMES_BEFORE = 5
"""Good frames before the state that failed in the PDB file of a failure."""


class Told(NamedTuple):
    """One failure, a row of failures.csv. beads: indices in the molecule, none for a criterion on all of it.

    residues: e.g. GLY7, one a bead; value: found, in the unit of the criterion (NaN: not finite); limit:
    allowed; found: both in words, with units; pdb: file beside the table.
    """

    domain: str
    replica: int
    status: str
    step: int
    failed_at_ps: float
    beads: tuple[int, ...]
    residues: tuple[str, ...]
    value: float
    limit: float
    found: str
    pdb: str


def time_ps(step: int, cfg: Sim) -> float:
    """Time of a step of a resolved section."""
    return round(step * cfg.step_fs / 1000.0, 6)


def write_failures(folder: Path, failed: Sequence[tuple[Pack, Failure]], run: Settings, cfg: Sim) -> None:
    """failures.csv, and a PDB file each: good frames before, then the state that failed. None: no folder.

    failed: with the pack that it happened in, whose records hold the frames before.
    """
    if not failed:
        return
    (folder / "failures").mkdir()
    with (folder / "failures" / "failures.csv").open("w", newline="") as handle:
        table = csv.DictWriter(handle, Told._fields)
        table.writeheader()
        for pack, failure in failed:
            told = _told(pack.replicas[failure.graph], failure, cfg)
            _write_frames(folder / "failures" / told.pdb, pack, failure, told, run)
            row = told._asdict() | {"value": f"{told.value:.6g}", "limit": f"{told.limit:.6g}"}
            row |= {"beads": " ".join(map(str, told.beads)), "residues": " ".join(told.residues)}
            table.writerow(row)


def read_failures(folder: Path) -> dict[tuple[str, int], Told]:
    """Failures of a simulation by domain and replica; none without a table.

    Raises InputError when the table is not of that form, or a PDB file that it names is missing.
    """
    path = folder / "failures" / "failures.csv"
    if not path.is_file():
        return {}
    try:
        with path.open(newline="") as handle:
            found = [_read(row) for row in csv.DictReader(handle)]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: not a table of failures ({error!r}); run `cgrefine simulate` again"
        ) from error
    for told in found:
        if not (path.parent / told.pdb).is_file():
            raise InputError(f"{path}: names {told.pdb}, which is not there; run `cgrefine simulate` again")
    return {(told.domain, told.replica): told for told in found}


def _read(row: dict[str, str]) -> Told:
    return Told(
        row["domain"], int(row["replica"]), row["status"], int(row["step"]), float(row["failed_at_ps"]),
        tuple(map(int, row["beads"].split())), tuple(row["residues"].split()), float(row["value"]),
        float(row["limit"]), row["found"], row["pdb"],
    )  # fmt: skip


def _told(replica: Replica, failure: Failure, cfg: Sim) -> Told:
    by, topology = failure.culprit, replica.domain.topology
    residues = tuple(f"{n}{topology.resid[b]}" for n, b in zip(by.residues, by.beads, strict=True))
    return Told(
        replica.domain.name, replica.index, by.status.name, failure.step, time_ps(failure.step, cfg),
        by.beads, residues, by.value, by.limit, by.text, f"{replica.domain.name}_r{replica.index:03d}.pdb",
    )  # fmt: skip


def _write_frames(path: Path, pack: Pack, failure: Failure, told: Told, run: Settings) -> None:
    before = _frames_before(pack, failure, run)
    text = (
        f"Models 1 to {len(before)}: good frames. Model {len(before) + 1}: the state that failed, step "
        f"{told.step}, {told.failed_at_ps:g} ps: {told.found}."
    )
    if failure.displaced:
        beads = " ".join(map(str, failure.displaced))
        text += f" Beads {beads} of it are not finite or far away; they stand where they last were good."
    remarks = textwrap.wrap(text.replace("Å", "A"), 68)
    models = np.concatenate([before, failure.failed[None]])
    write_pdb(path, pack.replicas[failure.graph].domain.topology, models, remarks)


def _frames_before(pack: Pack, failure: Failure, run: Settings) -> np.ndarray:
    """The last good frames (f, n, 3) of a replica that failed, its start among them when there are few."""
    good = max(failure.step - 1, 0) // run.stride
    begin = sum(len(r.start) for r in pack.replicas[: failure.graph])
    start = pack.replicas[failure.graph].start[None]
    mine = slice(begin, begin + start.shape[1])
    kept = [
        block["positions"][:, mine]
        for block in records.blocks(pack.frames, pack.layout, good, max(good - FRAMES_BEFORE, 0))
    ]
    return np.concatenate([start, *kept])[-FRAMES_BEFORE:]
