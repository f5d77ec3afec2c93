"""Processes that train together: how they find each other, and who of them writes.

`start` is called before anything else of jax. Layouts: one process a node with all its GPUs, or one a GPU;
which of the two is read from the scheduler's environment.
"""

import re
import socket
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from cgrefine.errors import InputError

TIMEOUT_S = 300
"""How long processes wait for each other at the start."""

PORTS = (20_000, 20_000)
"""First of the ports that jobs use, and how many: a job's own is chosen by its number."""


class Place(NamedTuple):
    """Of this process among those that train together. coordinator: HOST:PORT of the first one.

    local_devices: indices of the accelerators that it takes, None for all that it sees.
    """

    coordinator: str
    processes: int
    index: int
    local_devices: tuple[int, ...] | None = None


class Layout(NamedTuple):
    """What came together: for each process its host and its number of devices."""

    hosts: tuple[str, ...]
    devices: tuple[int, ...]
    kind: str

    def text(self) -> str:
        """One line for a person."""
        each = ", ".join(f"{host} {n}" for host, n in zip(self.hosts, self.devices, strict=True))
        total, count = sum(self.devices), len(self.hosts)
        return f"{count} processes with {total} devices ({self.kind}): {each}"


def place(
    asked: str, processes: int | None, index: int | None, environment: Mapping[str, str]
) -> Place | None:
    """Where this process belongs, None when it is alone. asked: "auto", "slurm" or HOST:PORT.

    auto is slurm in a Slurm job step of several tasks, otherwise alone. HOST:PORT needs processes and index,
    which may also stand in CGREFINE_PROCESSES and CGREFINE_PROCESS. Raises InputError on anything else.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")
    in_slurm = "SLURM_PROCID" in environment
    if asked == "auto":
        return _slurm(environment) if in_slurm and tasks != "1" else None
    if asked == "slurm":
        if not in_slurm:
            raise InputError("--distributed slurm: no Slurm job step (SLURM_PROCID is not set); use srun")
        return _slurm(environment)
    if not re.fullmatch(r"[^:\s]+:\d{1,5}", asked):
        raise InputError(f"--distributed {asked}: choose from auto, slurm, HOST:PORT")
    count = _number("--processes", "CGREFINE_PROCESSES", processes, environment)
    mine = _number("--process", "CGREFINE_PROCESS", index, environment)
    if not 0 <= mine < count:
        raise InputError(f"--process {mine}: must be from 0 to {count - 1}, one less than --processes")
    return Place(asked, count, mine)


def _number(option: str, variable: str, given: int | None, environment: Mapping[str, str]) -> int:
    text = str(given) if given is not None else environment.get(variable, "")
    if not text.isdigit():
        raise InputError(
            f"--distributed HOST:PORT needs {option} (or {variable}), a whole number; found {text!r}"
        )
    return int(text)


def _slurm(environment: Mapping[str, str]) -> Place:
    """From the variables of a job step. Two tasks on a node divide its GPUs, which they all may see."""
    hosts = host_names(environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"])
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS") or environment["SLURM_NTASKS"])
    first, count = PORTS
    job, step = int(environment["SLURM_JOB_ID"]), environment.get("SLURM_STEP_ID", "0")
    port = first + (16 * job + (int(step) if step.isdigit() else 0)) % count
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    shared = tasks > len(hosts) and len([d for d in visible.split(",") if d.strip()]) > 1
    local = (int(environment["SLURM_LOCALID"]),) if shared else None
    return Place(f"{full_name(hosts[0])}:{port}", tasks, int(environment["SLURM_PROCID"]), local)


def host_names(nodes: str) -> list[str]:
    """Names in Slurm's compressed list: gpu[01-03,7],login → gpu01, gpu02, gpu03, gpu7, login."""
    names: list[str] = []
    for piece in re.findall(r"[^,\[\]]+(?:\[[^\]]*\][^,\[\]]*)*", nodes):
        names += _expanded(piece)
    return names


def _expanded(piece: str) -> list[str]:
    found = re.search(r"\[([^\]]*)\]", piece)
    if found is None:
        return [piece]
    names = []
    for part in found.group(1).split(","):
        low, _, high = part.partition("-")
        for number in range(int(low), int(high or low) + 1):
            middle = f"{number:0{len(low)}d}"
            names += _expanded(piece[: found.start()] + middle + piece[found.end() :])
    return names


def full_name(host: str) -> str:
    """The host's name with its domain, as the resolver knows it, else the name itself."""
    name = socket.getfqdn(host)
    return host if name.startswith("localhost") else name


def start(where: Place | None) -> Layout | None:
    """Join the other processes; None when this one is alone. Raises InputError when they do not all come,
    or do not have the same number of devices each.
    """
    if where is None:
        return None
    # of the CPU only; accelerators have their own
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            where.coordinator,
            where.processes,
            where.index,
            local_device_ids=where.local_devices,
            initialization_timeout=TIMEOUT_S,
        )
    except (RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise InputError(
            f"process {where.index} of {where.processes}: could not join the others at {where.coordinator} "
            f"within {TIMEOUT_S} s ({told})"
        ) from error
    found = layout()
    if len(found.hosts) != where.processes or len(set(found.devices)) != 1:
        raise InputError(
            f"the processes do not match: asked for {where.processes} with equally many devices, found "
            f"{found.text()}; see CUDA_VISIBLE_DEVICES and the tasks of the job"
        )
    return found


def layout() -> Layout:
    """Hosts and devices of all processes; a collective call."""
    from jax.experimental import multihost_utils

    name = socket.gethostname().encode()[:64]
    row = np.zeros(66, np.int32)
    row[0], row[1] = jax.local_device_count(), len(name)
    row[2 : 2 + len(name)] = list(name)
    rows = np.asarray(multihost_utils.process_allgather(row)).reshape(-1, 66)
    hosts = tuple(bytes(r[2 : 2 + r[1]].tolist()).decode() for r in rows)
    return Layout(hosts, tuple(int(r[0]) for r in rows), jax.devices()[0].device_kind)


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def together(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
