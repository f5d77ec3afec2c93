"""Trajectories that mdtraj and VMD open: one PDB of Cα atoms a domain, one DCD or XTC file a replica.

A trajectory holds the starting frame and then the good frames alone, so whatever stands in it can be
used; how long it was to be is in the table of replicas. Files appear under their names when whole.
"""

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import mdtraj
import numpy as np
from mdtraj.core.element import carbon
from mdtraj.formats import DCDTrajectoryFile, XTCTrajectoryFile

from cgrefine.residues import RESIDUES
from cgrefine.system import Topology

A_PER_NM = 10.0


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


def write_pdb(path: Path, topology: Topology, positions: np.ndarray) -> None:
    """One frame (n, 3) Å as PDB."""
    frame = np.asarray(positions, np.float32)[None] / A_PER_NM
    temporary = path.with_name("." + path.name)
    mdtraj.Trajectory(frame, mdtraj_topology(topology)).save_pdb(str(temporary))
    temporary.rename(path)


def read_frames(trajectory: Path, pdb: Path) -> np.ndarray:
    """All frames of a DCD or XTC file, (f, n, 3) float32 Å."""
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
    """Frames of several replicas, each to its own file; `.dcd` or `.xtc` by the ending of the name.

    A context manager: files are under hidden names until it ends without an error.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._hidden = [path.with_name("." + path.name) for path in paths]
        self._files = [_open(path) for path in self._hidden]

    def __enter__(self) -> "TrajectoryWriter":
        return self

    def write(self, index: int, positions: np.ndarray, time_ps: np.ndarray) -> None:
        """Append frames (s, n, 3) Å at times (s,) ps to the file of one replica; no frames is fine."""
        if len(positions) == 0:
            return
        x = np.ascontiguousarray(positions, np.float32)
        handle = self._files[index]
        if isinstance(handle, XTCTrajectoryFile):
            handle.write(x / np.float32(A_PER_NM), time=np.asarray(time_ps, np.float32))
        else:
            handle.write(x)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._files:
            handle.close()
        for hidden, path in zip(self._hidden, self._paths, strict=True):
            if kind is None:
                hidden.rename(path)
            else:
                hidden.unlink(missing_ok=True)


def _open(path: Path) -> DCDTrajectoryFile | XTCTrajectoryFile:
    if path.suffix == ".xtc":
        return XTCTrajectoryFile(str(path), "w")
    if path.suffix == ".dcd":
        return DCDTrajectoryFile(str(path), "w")
    raise ValueError(f"trajectory {path.name}: the name must end in .dcd or .xtc")
