"""Reader of all-atom MD in the mdCATH HDF5 schema (mdcath-only-protein-v1.0).

/domain/{element,z,resid,resname,pdbProteinAtoms,psf} and /domain/<temperature>/<replica>/{coords,forces},
Å and kcal/mol/Å. A file may hold several domains. Frames are read by slices, never a whole data set.
"""

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import resources
from pathlib import Path

import h5py
import numpy as np

from cgrefine.data import psf
from cgrefine.data.source import Block, RawDomain, Run
from cgrefine.data.topology import Atoms, alpha_carbons, residue_index
from cgrefine.errors import InputError

SUFFIXES = (".h5", ".hdf5")
LENGTH_UNITS = frozenset({"angstrom", "angstroms", "å", "a"})
FORCE_UNITS = frozenset({"kcal/mol/angstrom", "kcal/mol/å", "kcal/mol/a", "kcal/(mol*angstrom)"})


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
        group = _group(file, name, str(path))
        atoms = _read_atoms(group, source)
        alpha_carbons(atoms)
        bonds = None
        if "psf" in group:
            bonds = psf.protein_bonds(_text(group, "psf", source), atoms)
        runs = _read_runs(group, len(atoms), source)
    return RawDomain(path, name, atoms, bonds, runs, partial(_blocks, path, name))


def _blocks(path: Path, name: str, run: Run, stride: int, block_frames: int) -> Iterator[Block]:
    source = f"{path}: domain {name}"
    with _opened(path) as file:
        group = _group(_group(file, name, str(path)), run.key, source)
        coords, forces = (_dataset(group, k, source) for k in ("coords", "forces"))
        for start in range(0, run.n_frames, stride * block_frames):
            part = slice(start, min(start + stride * block_frames, run.n_frames), stride)
            yield Block(np.arange(run.n_frames)[part], coords[part], forces[part])


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
    except (OSError, KeyError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: HDF5 file is truncated or damaged ({text}); copy it again") from error


def _group(parent: h5py.Group, key: str, source: str) -> h5py.Group:
    item = parent.get(key)
    if not isinstance(item, h5py.Group):
        raise InputError(f"{source}: group {key!r} is missing; found {', '.join(parent) or 'nothing'}")
    return item


def _dataset(parent: h5py.Group, key: str, source: str) -> h5py.Dataset:
    item = parent.get(key)
    if not isinstance(item, h5py.Dataset):
        where = (parent.name or "/").split("/", 2)[-1]
        raise InputError(
            f"{source}: data set {key!r} is missing in {where}; found {', '.join(parent) or 'nothing'}"
        )
    return item


def _text(group: h5py.Group, key: str, source: str) -> str:
    value = _dataset(group, key, source)[()]
    if not isinstance(value, bytes):
        raise InputError(f"{source}: {key!r} must be a text, found {type(value).__name__}")
    return value.decode("utf-8", errors="replace")


def _strings(group: h5py.Group, key: str, source: str) -> np.ndarray:
    values = np.atleast_1d(_dataset(group, key, source)[()])
    return np.asarray(
        [v.decode("utf-8", errors="replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]
    )


def _read_atoms(group: h5py.Group, source: str) -> Atoms:
    resname = _strings(group, "resname", source)
    resid = np.asarray(_dataset(group, "resid", source)[()], dtype=np.int64)
    z = np.asarray(_dataset(group, "z", source)[()], dtype=np.int64)
    n = len(resname)
    stated = int(group.attrs.get("numProteinAtoms", n))
    sizes = {"resname": n, "resid": len(resid), "z": len(z), "numProteinAtoms": stated}
    records = [
        r for r in _text(group, "pdbProteinAtoms", source).splitlines() if r[:6] in ("ATOM  ", "HETATM")
    ]
    sizes["pdbProteinAtoms"] = min(len(records), n)
    if len(set(sizes.values())) != 1 or n == 0:
        shown = ", ".join(f"{k} {v}" for k, v in sizes.items())
        raise InputError(f"{source}: numbers of atoms differ: {shown}")
    name = np.asarray([r[12:16].strip() for r in records[:n]])
    pdb_resname = np.asarray([r[17:21].strip() for r in records[:n]])
    segment = np.asarray([r[21] + r[26:27] + r[72:76].strip() for r in records[:n]])
    differs = np.flatnonzero(pdb_resname != resname)
    if len(differs):
        i = differs[0]
        raise InputError(
            f"{source}: atom {i + 1} is in {pdb_resname[i]} in pdbProteinAtoms but {resname[i]} in resname"
        )
    return Atoms(source, name, resname, segment, resid, z, residue_index(segment, resid, resname))


def _read_runs(group: h5py.Group, n_atoms: int, source: str) -> tuple[Run, ...]:
    runs = []
    for temperature, replicas in group.items():
        if not (isinstance(replicas, h5py.Group) and temperature.replace(".", "", 1).isdigit()):
            continue
        for replica, run in replicas.items():
            if not (isinstance(run, h5py.Group) and replica.isdigit()):
                continue
            key = f"{temperature}/{replica}"
            runs.append(
                Run(key, float(temperature), int(replica), _checked_frames(run, n_atoms, source, key))
            )
    if not sum(run.n_frames for run in runs):
        raise InputError(f"{source}: has no frames (groups <temperature>/<replica> with coords and forces)")
    return tuple(sorted(runs, key=lambda run: (run.temperature_K, run.replica)))


def _checked_frames(run: h5py.Group, n_atoms: int, source: str, key: str) -> int:
    """Number of frames, after a look at shapes, dtypes and unit attributes."""
    coords, forces = (_dataset(run, k, f"{source}: run {key}") for k in ("coords", "forces"))
    if coords.shape != forces.shape or coords.shape[1:] != (n_atoms, 3):
        raise InputError(
            f"{source}: run {key}: coords {coords.shape} and forces {forces.shape} must both be "
            f"(frames, {n_atoms}, 3)"
        )
    for item, allowed in ((coords, LENGTH_UNITS), (forces, FORCE_UNITS)):
        if item.dtype.kind != "f":
            raise InputError(
                f"{source}: run {key}: {item.name} has type {item.dtype}, must be floating point"
            )
        for attribute in ("unit", "units"):
            unit = item.attrs.get(attribute)
            unit = unit.decode() if isinstance(unit, bytes) else unit
            if unit is not None and str(unit).lower().replace(" ", "") not in allowed:
                raise InputError(
                    f"{source}: run {key}: {str(item.name).rsplit('/', 1)[-1]} has unit {str(unit)!r}, "
                    f"must be {'Angstrom' if item is coords else 'kcal/mol/Angstrom'}"
                )
    return int(coords.shape[0])
