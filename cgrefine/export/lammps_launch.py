"""Processes that run a bundle in LAMMPS (`lammps_run`), alone or under mpiexec, and what they leave."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cgrefine.errors import InputError, SimulationStopped
from cgrefine.export.lammps_run import import_lammps
from cgrefine.export.lammps_settings import RunResult, RunSettings, load_result, numbered


def find_mpiexec() -> str:
    """The mpiexec of the MPI that LAMMPS is linked to. InputError names the command that installs it."""
    found = shutil.which("mpiexec", path=str(Path(sys.prefix) / "bin"))
    if found is None:
        raise InputError(
            'mpiexec is not installed beside Python: install it with pip install "cgrefine[lammps]"'
        )
    return found


def launch(
    folder: Path,
    settings: RunSettings,
    out: Path,
    *,
    ranks: int = 1,
    replicas: int = 1,
    timeout_s: float | None = None,
    files: Path | None = None,
) -> list[RunResult]:
    """Run a bundle in fresh processes, `ranks` for each replica, under mpiexec where there are several.

    out: the npz to write, beside it the log of LAMMPS; the files of all replicas but the first are
    `numbered`. Replicas are partitions of one LAMMPS and differ by the seed. files: see `load_bundle`. The
    results, one a replica. InputError and SimulationStopped come back as such, TimeoutError when the time is
    up. When one replica is stopped the others run to their end and write their files, and SimulationStopped
    is raised; what LAMMPS finds in one of several processes of a replica ends them all.
    """
    import_lammps()
    command = [sys.executable, "-m", "cgrefine.export.lammps_run", str(folder), "--out", str(out)]
    if files is not None:
        command += ["--files", str(files)]
    for name, value in vars(settings).items():
        if value is not None:
            command += ["--" + name.replace("_", "-"), str(value)]
    processes = replicas * ranks
    if processes > 1:
        command = [find_mpiexec(), "-n", str(processes), *command, "--replicas", str(replicas)]
    # One thread for each process: with the network replicated, more would fight for the same cores.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".lstrip()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"}
    paths = [numbered(out, replica) for replica in range(replicas)]
    for path in paths:
        path.unlink(missing_ok=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"LAMMPS did not end within {timeout_s} s") from error
    if done.returncode == 2:
        raise InputError(_reason(done.stderr))
    if done.returncode != 0 or not all(path.exists() for path in paths):
        raise SimulationStopped(_reason(done.stderr) or f"LAMMPS ended with code {done.returncode}")
    return [load_result(path) for path in paths]


def _reason(text: str) -> str:
    """The line that says why a run stopped, else the last one: mpiexec adds lines of its own."""
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("LAMMPS stopped")), lines[-1] if lines else "")
