"""A run in LAMMPS: what is asked, what it leaves, and the files that hold it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from cgrefine.artifacts import write_json
from cgrefine.checkpoint import load_params, save_params


@dataclass(frozen=True)
class RunSettings:
    """The variables of the input script.

    ensemble: langevin, nvt (Nosé-Hoover chains of the period 1/friction) or nve. boundary: s (free) or p
    (periodic). minimize: largest number of steps before the dynamics. Files, all made absolute: restart, to
    go on from; restart_out, to write at the end, and every restart_every steps with .a and .b added in turn;
    series of temperature, potential and total energy and radius of gyration, and trajectory, every
    sample_every steps.
    Each replica but the first adds its number to the names of the files that it writes.
    """

    steps: int
    timestep_fs: float
    temperature_K: float
    friction_per_ps: float
    sort_every: int = 10
    sort_bin_A: float = 3.0
    seed: int = 20261
    ensemble: str = "langevin"
    boundary: str = "s"
    minimize: int = 0
    restart: Path | None = None
    restart_out: Path | None = None
    restart_every: int = 0
    series: Path | None = None
    trajectory: Path | None = None
    sample_every: int = 10

    def variables(self, replica: int = 0) -> dict[str, Any]:
        """Values by the names that the script uses; files only where they are given."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        values["damping_fs"] = 1000.0 / values.pop("friction_per_ps")
        values["seed"] = self.seed + SEED_STRIDE * replica
        for name, value in values.items():
            if isinstance(value, Path):
                values[name] = (value if name == "restart" else numbered(value, replica)).resolve()
        return values


SEED_STRIDE = 100_003
"""Between the seeds of replicas: the noise of a run that goes on has the seed plus the step."""


@dataclass(frozen=True)
class RunResult:
    """What the last run of the script leaves, at steps (2,): where it began and where it ended.

    positions (2, n, 3) Å without a box; forces (2, n, 3) kcal/mol/Å of the model, without thermostat, as they
    acted in the run; energy (2,) kcal/mol, total_energy (2,) with the kinetic part, and conserved (2,) with
    that of a Nosé-Hoover thermostat as well; pressure (2,) atm; temperature_K: mean over the second half.
    distinct_orders: bead orders seen by the first process; fewest: smallest number of beads that it owned.
    start_error: largest difference of the first forces from those of start.txt, kcal/mol/Å; NaN when the run
    did not begin there.
    """

    steps: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    energy: np.ndarray
    total_energy: np.ndarray
    conserved: np.ndarray
    pressure: np.ndarray
    temperature_K: float
    us_per_step: float
    ns_per_day: float
    distinct_orders: int
    fewest: int
    ranks: int
    start_error: float


NUMBERS = {f.name: f.type for f in fields(RunResult) if isinstance(f.type, type) and f.type is not np.ndarray}
"""Fields of a result that are numbers, and which kind."""


def throughput(us_per_step: float, timestep_fs: float) -> str:
    """The line on speed, in the log and on the terminal."""
    return f"throughput: {us_per_step:.0f} us/step, {ns_per_day(us_per_step, timestep_fs):.0f} ns/day"


def ns_per_day(us_per_step: float, timestep_fs: float) -> float:
    """Nanoseconds of dynamics in a day of 86,400 s."""
    return 86_400.0 * timestep_fs / us_per_step


def numbered(path: Path, replica: int) -> Path:
    """The file of a replica: run.npz, run_1.npz, run_2.npz."""
    return path if replica == 0 else path.with_name(f"{path.stem}_{replica}{path.suffix}")


def save_result(path: Path, result: RunResult) -> None:
    """Write a result as npz, and its numbers as JSON beside it."""
    save_params(path, vars(result))
    write_json(path.with_suffix(".json"), {name: getattr(result, name) for name in NUMBERS})


def load_result(path: Path) -> RunResult:
    """Read what `save_result` wrote."""
    stored = load_params(path)
    return RunResult(**stored | {name: kind(stored[name]) for name, kind in NUMBERS.items()})
