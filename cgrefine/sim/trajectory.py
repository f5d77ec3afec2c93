"""Trajectories that mdtraj and VMD open: one PDB of Cα atoms a domain, one DCD, XTC or HDF5 file a replica.

A trajectory holds the starting frame and then the good frames alone, so whatever stands in it can be
used; how long it was to be is in the table of replicas. Files appear under their names when whole.
"""

import ctypes
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import mdtraj
import numpy as np
from mdtraj.core.element import carbon
from mdtraj.formats import DCDTrajectoryFile, HDF5TrajectoryFile, XTCTrajectoryFile

from cgrefine.errors import InputError
from cgrefine.residues import RESIDUES
from cgrefine.system import Topology

A_PER_NM = 10.0

HDF5_CHUNK = 64
"""Frames that an HDF5 file stores together."""

HDF5_HEAD = 1 << 18
"""Bytes: with 512 a bead, more than the topology and what HDF5 keeps for itself take."""


def mdtraj_topology(topology: Topology) -> mdtraj.Topology:
    """The molecule as mdtraj sees it: Cα atoms of its residues, a chain for each unbroken stretch, bonds."""
    result = mdtraj.Topology()
    atoms = []
    for bead, species in enumerate(topology.species):
        if bead == 0 or topology.sequence[bead] - topology.sequence[bead - 1] != 1:
            chain = result.add_chain()
        residue = result.add_residue(RESIDUES[species], chain, resSeq=int(topology.resid[bead]))
        atoms.append(result.add_atom("CA", carbon, residue))
    for i, j in topology.bonds:
        result.add_bond(atoms[i], atoms[j])
    return result


def write_pdb(path: Path, topology: Topology, positions: np.ndarray, remarks: Sequence[str] = ()) -> None:
    """One frame (n, 3) Å as PDB, or models (f, n, 3); remarks: lines of text at its head."""
    frames = np.asarray(positions, np.float32).reshape(-1, topology.n_beads, 3) / np.float32(A_PER_NM)
    temporary = path.with_name("." + path.name)
    mdtraj.Trajectory(frames, mdtraj_topology(topology)).save_pdb(str(temporary))
    if remarks:
        head = "".join(f"REMARK   6 {line}\n" for line in remarks)
        temporary.write_text(head + temporary.read_text())
    temporary.rename(path)


def read_frames(trajectory: Path, pdb: Path) -> np.ndarray:
    """All frames of a trajectory file, (f, n, 3) float32 Å, as they stand in it. pdb: its topology."""
    if trajectory.suffix == ".h5":
        with h5py.File(trajectory) as file:
            return np.asarray(_dataset(file, "coordinates"), np.float32) * np.float32(A_PER_NM)
    with _quiet_stdout():
        return mdtraj.load(str(trajectory), top=str(pdb)).xyz * np.float32(A_PER_NM)


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send file descriptor 1 to nowhere: the DCD reader below mdtraj prints three lines a file from C."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            libc.fflush(None)
            os.dup2(kept, 1)
            os.close(kept)


class TrajectoryWriter:
    """Frames of several replicas, each to its own file; `.dcd`, `.xtc` or `.h5` by the ending of the name.

    topologies: of each file, which HDF5 holds too. A context manager: files are under hidden names until it
    ends without an error and each of them was found whole. Raises InputError when one is not.
    """

    def __init__(self, paths: Sequence[Path], topologies: Sequence[Topology] | None = None) -> None:
        self._paths = list(paths)
        self._hidden = [path.with_name("." + path.name) for path in paths]
        for path in self._paths:
            if path.suffix not in _FILES and path.suffix != ".h5":
                raise ValueError(f"trajectory {path.name}: the name must end in .dcd, .xtc or .h5")
            if path.suffix == ".h5" and topologies is None:
                raise ValueError(f"trajectory {path.name}: HDF5 needs the topology")
        shapes = topologies or [None] * len(self._paths)
        self._written = [0] * len(self._paths)
        self._files: list[DCDTrajectoryFile | XTCTrajectoryFile | _Hdf5] = []
        for path, hidden, shape in zip(self._paths, self._hidden, shapes, strict=True):
            try:
                made = _opened(hidden, "w") if path.suffix != ".h5" or shape is None else _Hdf5(hidden, shape)
            except OSError as error:
                self.__exit__(OSError, error, None)
                hidden.unlink(missing_ok=True)
                raise _not_whole(path) from error
            self._files.append(made)

    def __enter__(self) -> "TrajectoryWriter":
        return self

    def write(self, index: int, positions: np.ndarray, time_ps: np.ndarray) -> None:
        """Append frames (s, n, 3) Å at times (s,) ps to the file of one replica; no frames is fine."""
        if len(positions) == 0:
            return
        x = np.ascontiguousarray(positions, np.float32)
        handle: Any = self._files[index]
        try:
            if isinstance(handle, XTCTrajectoryFile | _Hdf5):
                handle.write(x / np.float32(A_PER_NM), np.asarray(time_ps, np.float32))
            else:
                handle.write(x)
        except (OSError, RuntimeError, TypeError) as error:
            # what mdtraj makes of a failed write: RuntimeError for XTC, TypeError for DCD (a slip of its own)
            raise _not_whole(self._paths[index]) from error
        self._written[index] += len(x)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for handle, path in zip(self._files, self._paths, strict=False):
                try:
                    handle.close()
                except (OSError, RuntimeError) as fault:
                    if kind is None:
                        raise _not_whole(path) from fault
            if kind is None:
                for hidden, path, count in zip(self._hidden, self._paths, self._written, strict=True):
                    _require_whole(hidden, path, count)
                for hidden, path in zip(self._hidden, self._paths, strict=True):
                    hidden.rename(path)
        finally:
            for hidden in self._hidden:
                hidden.unlink(missing_ok=True)


class _Hdf5:
    """Writes the layout of mdtraj's HDF5 format, conventions Pande 1.1: coordinates in nm, times in ps.

    By h5py, since mdtraj's own writer needs PyTables. HDF5 ends the process when a write finds the disk full,
    so the room is taken before each.
    """

    def __init__(self, path: Path, topology: Topology) -> None:
        self._path, self._frames, self._frame_bytes = path, 0, 12 * topology.n_beads + 4
        self._head_bytes = HDF5_HEAD + 512 * topology.n_beads
        path.touch()
        self._take_room(0)
        self._file = h5py.File(path, "w")
        head = {"title": "", "application": "cgrefine", "program": "cgrefine", "programVersion": "",
                "conventions": "Pande", "conventionVersion": "1.1"}  # fmt: skip
        for name, text in head.items():
            self._file.attrs[name] = np.bytes_(text.encode() or b" ")
        described = HDF5TrajectoryFile.convert_topology_to_dict(mdtraj_topology(topology))
        self._file.create_dataset("topology", data=np.array([json.dumps(described).encode()]))
        for name, shape, unit in (
            ("coordinates", (topology.n_beads, 3), b"nanometers"),
            ("time", (), b"picoseconds"),
        ):
            made = self._file.create_dataset(
                name, (0, *shape), "<f4", maxshape=(None, *shape), chunks=(HDF5_CHUNK, *shape)
            )
            made.attrs["units"] = np.bytes_(unit)

    def write(self, positions: np.ndarray, time: np.ndarray) -> None:
        """Append frames (s, n, 3) nm at times (s,) ps. Raises OSError when the disk takes no more."""
        self._take_room(len(positions))
        for name, values in (("coordinates", positions), ("time", time)):
            data = _dataset(self._file, name)
            data.resize(len(data) + len(values), axis=0)
            data[-len(values) :] = values

    def _take_room(self, frames: int) -> None:
        """Lengthen the file beyond its need with so many frames more; HDF5 cuts it when it is closed."""
        self._frames += frames
        chunks = -(-self._frames // HDF5_CHUNK) + 1
        room = self._head_bytes + chunks * (HDF5_CHUNK * self._frame_bytes + 1024)
        with self._path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, room)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


_FILES = {".dcd": DCDTrajectoryFile, ".xtc": XTCTrajectoryFile}


def _opened(path: Path, mode: str) -> DCDTrajectoryFile | XTCTrajectoryFile:
    return _FILES[path.suffix](str(path), mode)


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise OSError(f"{file.filename}: {name} is not a dataset")
    return found


def _require_whole(path: Path, name: Path, frames: int) -> None:
    """Raise InputError unless so many frames can be read: the C libraries close a cut file without a word."""
    if path.suffix == ".h5" or frames == 0:
        return
    with _quiet_stdout(), _opened(path, "r") as file:
        try:
            file.seek(frames - 1)
            if len(file) == frames and len(file.read(1)[0]) == 1:
                return
        except (OSError, RuntimeError, AssertionError) as error:
            raise _not_whole(name) from error
    raise _not_whole(name)


def _not_whole(path: Path) -> InputError:
    return InputError(f"{path}: could not be written whole; is the disk full?")
