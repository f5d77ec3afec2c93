"""Reader of all-atom MD in the mdCATH HDF5 schema (mdcath-only-protein-v1.0).

/domain/{element,z,resid,resname,pdbProteinAtoms,psf} and /domain/<temperature>/<replica>/{coords,forces},
Å and kcal/mol/Å. A file may hold several domains. Frames are read by blocks, never a whole data set.
The format has no checksums: what is held twice (names, residues, elements, sizes) is compared, but a damaged
coordinate, force or bond is a number like any other unless it is absurd (source.valid_frames).
"""

import glob
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import resources
from pathlib import Path

import h5py
import numpy as np

from cgrefine.data import psf
from cgrefine.data.hdf5_frames import frames_of, stored_whole
from cgrefine.data.mdcath_atoms import dataset_of, group_of, read_atoms, text_of
from cgrefine.data.source import Block, RawDomain, Run
from cgrefine.data.topology import alpha_carbons
from cgrefine.errors import InputError

SUFFIXES = (".h5", ".hdf5")
LENGTH_UNITS = {"angstrom": 1.0, "angstroms": 1.0, "å": 1.0, "a": 1.0, "nm": 10.0, "nanometer": 10.0}
"""Unit attribute of coords, in lower case without blanks → Å."""
FORCE_UNITS = {
    "kcal/mol/angstrom": 1.0, "kcal/mol/å": 1.0, "kcal/mol/a": 1.0, "kcal/(mol*angstrom)": 1.0,
    "kj/mol/nm": 1 / 41.84, "kj/(mol*nm)": 1 / 41.84, "kj/mol/angstrom": 1 / 4.184,
}  # fmt: skip
"""Unit attribute of forces → kcal/mol/Å."""

TEMPERATURE_GROUP = re.compile(r"(?:sims)?([0-9]{1,4}(?:\.[0-9]{1,6})?)K?")
"""320, or sims320K as older converters wrote."""
REPLICA_GROUP = re.compile(r"[0-9]{1,6}")

HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError)
"""What h5py raises on damaged files, by the place of the damage."""


def sample_folder() -> Path:
    """The folder of the embedded sample."""
    return Path(str(resources.files("cgrefine.data"))) / "sample"


def expand(raw: Sequence[str]) -> tuple[Path, ...]:
    """HDF5 files named by files, globs, folders, or the word `sample`; in order, each once.

    Raises InputError when an entry matches no file.
    """
    found: dict[Path, None] = {}
    for entry in raw:
        for path in _matches(entry):
            found.setdefault(path, None)
    return tuple(found)


def domain_names(path: Path) -> tuple[str, ...]:
    """Names of the domains in a file. Raises InputError on a file that is missing, not HDF5, cut or empty."""
    with _opened(path) as file:
        names = tuple(n for n, g in file.items() if isinstance(g, h5py.Group) and "resname" in g)
    if not names:
        raise InputError(
            f"{path}: holds no mdCATH domain (a top-level group with `resname` and `pdbProteinAtoms`)"
        )
    return names


def read_domain(path: Path, name: str) -> RawDomain:
    """Atoms, bonds and runs of one domain; shapes and unit attributes checked, no frame read.

    Raises InputError on missing or inconsistent fields, and on a domain without Cα.
    """
    source = f"{path}: domain {name}"
    with _opened(path) as file:
        group = group_of(file, name, str(path))
        atoms = read_atoms(group, source)
        alpha_carbons(atoms)
        bonds = None
        if "psf" in group:
            bonds = psf.protein_bonds(text_of(group, "psf", source), atoms)
        runs = _read_runs(group, len(atoms), source)
    return RawDomain(path, name, atoms, bonds, runs, partial(_blocks, path, name))


def _blocks(path: Path, name: str, run: Run, stride: int, block_frames: int) -> Iterator[Block]:
    source = f"{path}: domain {name}"
    with _opened(path) as file:
        group = group_of(group_of(file, name, str(path)), run.key, source)
        coords, forces = (dataset_of(group, k, source) for k in ("coords", "forces"))
        scales = _unit(coords, source, run.key), _unit(forces, source, run.key)
        readers = frames_of(coords, path), frames_of(forces, path)
        for start in range(0, run.n_frames, stride * block_frames):
            stop = min(start + stride * block_frames, run.n_frames)
            values = (
                _scaled(reader.frames(start, stop, stride), scale)
                for reader, scale in zip(readers, scales, strict=True)
            )
            yield Block(np.arange(start, stop, stride), *values)


def _scaled(values: np.ndarray, scale: float) -> np.ndarray:
    return values if scale == 1.0 else values * np.float32(scale)


def _matches(entry: str) -> list[Path]:
    path = Path(entry).expanduser()
    if entry == "sample":
        path = sample_folder()
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        if not files:
            raise InputError(f"data.raw: folder {path} holds no file with suffix {' or '.join(SUFFIXES)}")
        return files
    if path.exists():
        return [path]
    files = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
    if not files:
        raise InputError(
            f"data.raw: {entry!r} matches no file; give a file, a glob, a folder, or the word `sample`"
        )
    return files


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The open file; anything the HDF5 library cannot read becomes an InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        is_hdf5 = h5py.is_hdf5(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not is_hdf5:
        raise InputError(
            f"{path}: is not an HDF5 file ({path.stat().st_size} bytes); mdCATH HDF5 is expected"
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except HDF5_ERRORS as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: HDF5 file is truncated or damaged ({text}); copy it again") from error


def _read_runs(group: h5py.Group, n_atoms: int, source: str) -> tuple[Run, ...]:
    """Runs by temperature and replica; one without frames is missing, one without data sets is broken."""
    runs: dict[tuple[float, int], Run] = {}
    for name, replicas in group.items():
        match = TEMPERATURE_GROUP.fullmatch(name)
        if match is None:
            if not isinstance(replicas, h5py.Group) or not any(
                isinstance(item, h5py.Group) for item in replicas.values()
            ):
                continue
            raise InputError(
                f"{source}: group {name!r} is no temperature; groups must be named such as 320 or sims320K"
            )
        if not isinstance(replicas, h5py.Group) or not len(replicas):
            raise InputError(f"{source}: {name!r} must be a group of replicas, and holds none")
        for replica, run in replicas.items():
            key = f"{name}/{replica}"
            if not (isinstance(run, h5py.Group) and REPLICA_GROUP.fullmatch(replica)):
                raise InputError(
                    f"{source}: {key} is no replica; they must be groups named 0, 1, 2 and so on"
                )
            n_frames = _checked_frames(run, n_atoms, source, key)
            if not n_frames:
                continue
            place = float(match[1]), int(replica)
            if place in runs:
                raise InputError(f"{source}: runs {runs[place].key} and {key} are the same replica")
            runs[place] = Run(key, *place, n_frames)
    _refuse_overlap(group, [run.key for run in runs.values()], source)
    if not runs:
        raise InputError(f"{source}: has no frames (groups <temperature>/<replica> with coords and forces)")
    return tuple(runs[place] for place in sorted(runs))


def _refuse_overlap(group: h5py.Group, keys: Sequence[str], source: str) -> None:
    """Raises InputError when two data sets occupy the same bytes, as a damaged address makes them."""
    extents = []
    for key in keys:
        for name in ("coords", "forces"):
            item = dataset_of(group_of(group, key, source), name, source)
            offset = item.id.get_offset()
            if offset is not None:
                extents.append((offset, offset + item.id.get_storage_size(), f"{key}/{name}"))
    extents.sort()
    for (_, end, first), (start, _, second) in itertools.pairwise(extents):
        if start < end:
            raise InputError(f"{source}: {first} and {second} overlap: the file is damaged, copy it again")


def _checked_frames(run: h5py.Group, n_atoms: int, source: str, key: str) -> int:
    """Number of frames, after a look at shapes, dtypes, sizes and unit attributes."""
    coords, forces = (dataset_of(run, k, f"{source}: run {key}") for k in ("coords", "forces"))
    if coords.shape != forces.shape or coords.shape[1:] != (n_atoms, 3):
        raise InputError(
            f"{source}: run {key}: coords {coords.shape} and forces {forces.shape} must both be "
            f"(frames, {n_atoms}, 3)"
        )
    for item in (coords, forces):
        if item.dtype.kind != "f":
            raise InputError(
                f"{source}: run {key}: {item.name} has type {item.dtype}, must be floating point"
            )
        if not stored_whole(item):
            raise InputError(
                f"{source}: run {key}: {item.name} of shape {item.shape} occupies "
                f"{item.id.get_storage_size()} bytes: the file is damaged, copy it again"
            )
        _unit(item, source, key)
    return int(coords.shape[0])


def _unit(item: h5py.Dataset, source: str, key: str) -> float:
    """What a number of coords or forces is in Å or kcal/mol/Å, by its attribute, 1 without one.

    Raises InputError on a unit that is not known.
    """
    name = str(item.name).rsplit("/", 1)[-1]
    allowed = LENGTH_UNITS if name == "coords" else FORCE_UNITS
    for attribute in ("unit", "units"):
        unit = item.attrs.get(attribute)
        unit = unit.decode("utf-8", errors="replace") if isinstance(unit, bytes) else unit
        if unit is None:
            continue
        scale = allowed.get(str(unit).lower().replace(" ", ""))
        if scale is None:
            raise InputError(
                f"{source}: run {key}: {name} has unit {str(unit)!r}, must be "
                f"{'Angstrom or nm' if name == 'coords' else 'kcal/mol/Angstrom or kJ/mol/nm'}"
            )
        return scale
    return 1.0
