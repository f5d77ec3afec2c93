"""The coarse-grained data set on disk: one folder of arrays a domain, memory-mapped when read.

dataset.json names the domains, their chains and the sha256 of each array; arrays are domains/<name>/*.npy.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgrefine.artifacts import read_json, write_json
from cgrefine.errors import InputError
from cgrefine.system import Topology, topology_from_species

FORMAT = 1
UNITS = {"positions": "Å", "forces": "kcal/mol/Å", "basic_forces": "kcal/mol/Å", "temperature_K": "K"}
ARRAYS = {
    "positions": ("float32", True),
    "forces": ("float32", True),
    "basic_forces": ("float32", True),
    "temperature_K": ("float32", False),
    "replica": ("int32", False),
    "frame": ("int32", False),
    "validation": ("bool", False),
}
"""Name → dtype, and whether the shape is (frames, beads, 3) rather than (frames,)."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Domain:
    """One protein: its chain, and f frames of n beads as read-only memory maps.

    positions (f, n, 3) Å, forces (optimal map) and basic_forces (f, n, 3) kcal/mol/Å, float32;
    temperature_K (f,) float32; replica, frame (f,) int32, where the frame came from; validation (f,) bool.
    """

    name: str
    topology: Topology
    positions: np.ndarray
    forces: np.ndarray
    basic_forces: np.ndarray
    temperature_K: np.ndarray
    replica: np.ndarray
    frame: np.ndarray
    validation: np.ndarray

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.positions)


@dataclass(frozen=True)
class Dataset:
    """An open data set. index: the content of dataset.json."""

    folder: Path
    domains: tuple[Domain, ...]
    index: Mapping[str, Any]

    def domain(self, name: str) -> Domain:
        """The domain of that name. Raises InputError listing the names otherwise."""
        for domain in self.domains:
            if domain.name == name:
                return domain
        names = ", ".join(domain.name for domain in self.domains)
        raise InputError(f"{self.folder}: no domain {name!r}; choose from {names}")

    def verify(self) -> None:
        """Compare the hash of every array with dataset.json (reads everything). Raises InputError."""
        for entry in self.index["domains"]:
            for file, expected in entry["sha256"].items():
                path = self.folder / "domains" / entry["name"] / file
                found = _sha256(path)
                if found != expected:
                    raise InputError(
                        f"{path}: content is damaged (sha256 {found[:12]}, must be {expected[:12]})"
                    )


def write_domain(
    folder: Path, name: str, topology: Topology, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write one domain under a temporary name and rename it; returns its entry for dataset.json.

    arrays: the seven of ARRAYS, converted to their dtypes. facts: JSON-able extras for the entry.
    Raises InputError on a name that is no plain file name, ValueError on wrong shapes.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"domain name {name!r}: must be letters, digits and _ . + -, not starting with a dot"
        )
    n_frames = len(arrays["positions"])
    final, partial = folder / "domains" / name, folder / "domains" / f".{name}.partial"
    if final.exists():
        raise InputError(f"{final}: exists already; each domain is written once")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    hashes = {}
    for key, (dtype, per_bead) in ARRAYS.items():
        shape = (n_frames, topology.n_beads, 3) if per_bead else (n_frames,)
        if arrays[key].shape != shape:
            raise ValueError(f"domain {name}: {key} has shape {arrays[key].shape}, must be {shape}")
        path = partial / f"{key}.npy"
        np.save(path, np.ascontiguousarray(arrays[key], dtype=dtype), allow_pickle=False)
        hashes[path.name] = _sha256(path)
    partial.rename(final)
    return {
        "name": name,
        "n_beads": topology.n_beads,
        "n_frames": n_frames,
        "species": topology.species.tolist(),
        "breaks": (np.flatnonzero(np.diff(topology.sequence) != 1) + 1).tolist(),
        "resid": topology.resid.tolist(),
        **facts,
        "sha256": hashes,
    }


def write_index(folder: Path, entries: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write dataset.json, last: with it the data set is complete."""
    content = {"format": FORMAT, "units": UNITS, **facts, "domains": list(entries)}
    write_json(folder / "dataset.json", content)


def open_dataset(folder: Path) -> Dataset:
    """Memory-map a data set. Shapes and dtypes are checked; `verify` checks the content.

    Raises InputError on a missing, damaged or newer store, naming the file.
    """
    path = folder / "dataset.json"
    if not path.exists():
        raise InputError(f"{folder}: is no data set (dataset.json is missing); run `cgrefine prepare` first")
    index = read_json(path)
    found = index.get("format") if isinstance(index, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: format is {found}, this version reads {FORMAT}")
    try:
        domains = tuple(_open_domain(folder, entry) for entry in index["domains"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged (field {error} is missing or malformed)") from error
    if not domains:
        raise InputError(f"{path}: holds no domain")
    return Dataset(folder, domains, index)


def _open_domain(folder: Path, entry: Mapping[str, Any]) -> Domain:
    name, n_frames, n_beads = entry["name"], entry["n_frames"], entry["n_beads"]
    if not _NAME.fullmatch(name):
        raise InputError(f"{folder / 'dataset.json'}: domain name {name!r} is no plain file name")
    try:
        topology = topology_from_species(entry["species"], entry["breaks"], entry["resid"])
    except ValueError as error:
        raise InputError(f"{folder / 'dataset.json'}: domain {name}: {error}") from error
    arrays = {}
    for key, (dtype, per_bead) in ARRAYS.items():
        path = folder / "domains" / name / f"{key}.npy"
        shape = (n_frames, n_beads, 3) if per_bead else (n_frames,)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{path}: is missing, cut or damaged ({error}); run `cgrefine prepare` again"
            ) from error
        if array.shape != shape or array.dtype != np.dtype(dtype):
            raise InputError(f"{path}: is {array.dtype} {array.shape}, must be {dtype} {shape}")
        arrays[key] = array
    return Domain(name=name, topology=topology, **arrays)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
