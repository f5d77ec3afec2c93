"""Replicas of a simulation: what is to be run, and what became of it, a row of replicas.csv each."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from cgrefine.data.store import Domain
from cgrefine.errors import InputError
from cgrefine.sim import records
from cgrefine.sim.stability import Checks
from cgrefine.status import Status
from cgrefine.system import System


@dataclass(frozen=True)
class Outcome:
    """One replica of one domain, a row of replicas.csv. failed_at_ps, temperature_K: None when there is none.

    frames: in the trajectory, the starting frame among them. temperature_K: kinetic, later half of the run.
    """

    domain: str
    replica: int
    status: str
    reason: str
    failed_at_ps: float | None
    frames: int
    temperature_K: float | None
    trajectory: str

    @property
    def stable(self) -> bool:
        """Alive at the end."""
        return self.status == Status.OK.name


@dataclass(frozen=True)
class Replica:
    """What is to be run: a domain, the number of the replica in it, and its start (n, 3) Å."""

    domain: Domain
    index: int
    start: np.ndarray

    def file(self, suffix: str) -> str:
        """Name of its trajectory below the stage folder."""
        return f"trajectories/{self.domain.name}_r{self.index:03d}.{suffix}"


@dataclass(frozen=True)
class Pack:
    """Replicas that run as one packed graph, and the folder of what is written on the way.

    rungs: of ladders of temperatures, each of so many consecutive replicas (1: no exchange); rounds: a frame.
    """

    index: int
    replicas: Sequence[Replica]
    system: System
    limits: Checks
    folder: Path
    rungs: int = 1
    rounds: int = 1

    @property
    def state(self) -> Path:
        """The snapshot after the last whole chunk."""
        return self.folder / f"pack{self.index:03d}.npz"

    @property
    def frames(self) -> Path:
        """Records of all frames, see `sim.records`."""
        return self.folder / f"pack{self.index:03d}.frames"

    @cached_property
    def layout(self) -> np.dtype:
        """Of a record."""
        return records.layout(len(self.system.species), len(self.replicas), self.rounds)


def write_outcomes(path: Path, found: Sequence[Outcome]) -> None:
    """replicas.csv: one row a replica; None is an empty cell."""
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [f.name for f in fields(Outcome)])
        writer.writeheader()
        writer.writerows(asdict(o) for o in found)


def read_outcomes(path: Path) -> list[Outcome]:
    """Inverse of `write_outcomes`. Raises InputError when the file is not such a table."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    try:
        with path.open(newline="") as handle:
            return [
                Outcome(
                    row["domain"], int(row["replica"]), row["status"], row["reason"],
                    number(row["failed_at_ps"]), int(row["frames"]), number(row["temperature_K"]),
                    row["trajectory"],
                )
                for row in csv.DictReader(handle)
            ]  # fmt: skip
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: not a table of replicas ({error!r}); run `cgrefine simulate` again"
        ) from error
