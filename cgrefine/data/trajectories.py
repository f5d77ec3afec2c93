"""Reader of molecules in other files than mdCATH ones: GROMACS .trr, AMBER NetCDF, .npz; each file is a run.

Water and ions are left out. Molecules must be whole: a chain that a periodic box cuts is an error.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from cgrefine.config.data import Trajectory, TrajectoryFile
from cgrefine.data.source import Block, RawDomain, Run
from cgrefine.data.topology import CA_GAP_A, alpha_carbons
from cgrefine.data.trajectory_netcdf import NetcdfFile, open_netcdf
from cgrefine.data.trajectory_npz import NpzFile, npz_texts, open_npz
from cgrefine.data.trajectory_topology import Solute, npz_atoms, read_topology
from cgrefine.data.trajectory_trr import TrrFile, open_trr
from cgrefine.errors import InputError

FrameFile = TrrFile | NetcdfFile | NpzFile
NETCDF = (".nc", ".ncdf", ".netcdf")
SUFFIXES = (".trr", *NETCDF, ".npz")
CUT_A = 8.0
"""Bonded Cα that move farther apart than this within a run were cut by the periodic box."""


def read_trajectory(section: Trajectory) -> RawDomain:
    """Atoms, bonds and runs of a molecule; headers and shapes checked, no frame read.

    Topology from section.topology, else from the first npz file. Raises InputError on files that are missing,
    damaged or of another format, without forces, or with another number of atoms than the topology.
    """
    source = f"{section.files[0].path}: domain {section.name}"
    opened = [_opened(file) for file in section.files]
    molecule = _solute(section, opened, source)
    alpha_carbons(molecule.atoms)
    files: dict[str, tuple[FrameFile, np.ndarray]] = {}
    runs = []
    for entry, file in zip(section.files, opened, strict=True):
        key = f"{entry.temperature_K:g}/{entry.replica}"
        if key in files:
            raise InputError(
                f"{source}: {files[key][0].path} and {file.path} are both {entry.temperature_K:g} K replica "
                f"{entry.replica}; give each file its own replica"
            )
        files[key] = file, _rows(molecule, file)
        runs.append(Run(key, entry.temperature_K, entry.replica, file.n_frames))
    runs.sort(key=lambda run: (run.temperature_K, run.replica))
    read = partial(_blocks, files, alpha_carbons(molecule.atoms))
    return RawDomain(opened[0].path, section.name, molecule.atoms, molecule.bonds, tuple(runs), read)


def _opened(entry: TrajectoryFile) -> FrameFile:
    path = Path(entry.path).expanduser()
    if not path.is_file():
        raise InputError(f"{path}: no such file (data.trajectories)")
    suffix = path.suffix.lower()
    openers: Mapping[str, Callable[[Path], FrameFile]] = {
        ".trr": open_trr,
        ".npz": lambda path: open_npz(path, entry.units),
        **dict.fromkeys(NETCDF, open_netcdf),
    }
    if suffix not in openers:
        raise InputError(f"{path}: suffix {suffix!r} is unknown; choose from {', '.join(SUFFIXES)}")
    try:
        return openers[suffix](path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _solute(section: Trajectory, opened: list[FrameFile], source: str) -> Solute:
    if section.topology is not None:
        return read_topology(Path(section.topology).expanduser(), source)
    for file in opened:
        if isinstance(file, NpzFile):
            return npz_atoms(npz_texts(file.path), file.n_atoms, source)
    raise InputError(f"{source}: needs `topology`, a .pdb or .psf file; only npz files can do without")


def _rows(molecule: Solute, file: FrameFile) -> np.ndarray:
    """Rows of the molecule's atoms in a file that holds all atoms of the topology, or only those."""
    if file.n_atoms == molecule.n_file:
        return molecule.rows
    if file.n_atoms == len(molecule.rows):
        return np.arange(file.n_atoms)
    without = (
        "" if molecule.n_file == len(molecule.rows) else f" ({len(molecule.rows)} without water and ions)"
    )
    raise InputError(
        f"{file.path}: has {file.n_atoms} atoms, the topology of {molecule.atoms.source} has "
        f"{molecule.n_file}{without}"
    )


def _blocks(
    files: Mapping[str, tuple[FrameFile, np.ndarray]],
    ca: np.ndarray,
    run: Run,
    stride: int,
    block_frames: int,
) -> Iterator[Block]:
    file, rows = files[run.key]
    everything = len(rows) == file.n_atoms
    start, bonded = 0, None
    for coords, forces in file.blocks(stride, block_frames):
        if not everything:
            coords, forces = coords[:, rows], forces[:, rows]
        with np.errstate(over="ignore", invalid="ignore"):
            steps = np.linalg.norm(np.diff(coords[:, ca], axis=1), axis=2)
        bonded = steps[0] < CA_GAP_A if bonded is None else bonded
        frame = start + stride * np.arange(len(coords))
        cut = np.argwhere((steps > CUT_A) & bonded)
        if len(cut):
            k, bead = cut[0]
            raise InputError(
                f"{file.path}: frame {frame[k] + 1}: Cα {bead + 1} and {bead + 2} are {steps[k, bead]:.1f} Å "
                "apart: the periodic box cuts the molecule; make it whole (gmx trjconv -pbc whole -force, "
                "cpptraj autoimage)"
            )
        yield Block(frame, coords, forces)
        start += stride * len(coords)
