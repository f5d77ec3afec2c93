"""Positions and forces from NetCDF trajectories in the AMBER convention, classic (version 3) or NetCDF-4.

Variables `coordinates` and `forces` (frame, atom, spatial), each times its `scale_factor` in its `units`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from cgrefine.data.hdf5_frames import frames_of
from cgrefine.data.netcdf_classic import MAGIC, ClassicVariable, classic_variables
from cgrefine.errors import InputError

LENGTHS = {"angstrom": 1.0, "angstroms": 1.0, "a": 1.0, "å": 1.0, "nm": 10.0, "nanometer": 10.0}
ENERGIES = {"kcal": 1.0, "kilocalorie": 1.0, "kj": 1 / 4.184, "kilojoule": 1 / 4.184}
KCAL_IN_KJ = 4.184
NAMES = ("coordinates", "forces")
CLASSIC_64, HDF5 = b"CDF\x05", b"\x89HDF"
ERRORS = (OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError, AttributeError, MemoryError,
          OverflowError)  # fmt: skip
"""What h5py raises on damaged files, by the place of the damage."""


class NetcdfFile(NamedTuple):
    """scales: of coordinates and forces, to Å and kcal/mol/Å. classic: NetCDF-3, else NetCDF-4 (HDF5)."""

    path: Path
    n_frames: int
    n_atoms: int
    scales: tuple[float, float]
    classic: bool

    def blocks(self, stride: int, block_frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(coords, forces) of every stride-th frame, Å and kcal/mol/Å, float32."""
        read = _classic_frames if self.classic else _hdf5_frames
        for raw in read(self, stride, block_frames):
            coords, forces = (v * np.float32(s) for v, s in zip(raw, self.scales, strict=True))
            yield coords, forces


def open_netcdf(path: Path) -> NetcdfFile:
    """Shapes and units. Raises InputError on other or damaged files, missing forces and unknown units."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == CLASSIC_64:
        raise InputError(
            f"{path}: NetCDF of the 64-bit data format (CDF-5) is not read; convert it: nccopy -k netCDF-4"
        )
    classic = magic in MAGIC
    if not classic and magic != HDF5:
        raise InputError(f"{path}: is not a NetCDF file ({path.stat().st_size} bytes)")
    with nullcontext(classic_variables(path)) if classic else _hdf5(path) as variables:
        for name in NAMES:
            if name not in variables:
                raise InputError(
                    f"{path}: has no variable `{name}`; found {', '.join(sorted(variables)) or 'nothing'}"
                )
        shapes = {name: tuple(variables[name].shape) for name in NAMES}
        scales = tuple(_scale(path, name, variables[name]) for name in NAMES)
    first, second = shapes.values()
    if first != second or len(first) != 3 or first[2] != 3 or first[0] == 0:
        raise InputError(
            f"{path}: coordinates {first} and forces {second} must both be (frames, atoms, 3), with frames"
        )
    return NetcdfFile(path, int(first[0]), int(first[1]), (scales[0], scales[1]), classic)


def _classic_frames(file: NetcdfFile, stride: int, block_frames: int) -> Iterator[list[np.ndarray]]:
    variables = classic_variables(file.path)
    chosen = np.arange(0, file.n_frames, stride)
    with file.path.open("rb") as stream, np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(chosen), block_frames):
            part = chosen[start : start + block_frames].tolist()
            yield [
                np.stack([variables[name].row(stream, k).astype(np.float32) for k in part]) for name in NAMES
            ]


def _hdf5_frames(file: NetcdfFile, stride: int, block_frames: int) -> Iterator[list[np.ndarray]]:
    with _hdf5(file.path) as variables:
        readers = [frames_of(variables[name], file.path) for name in NAMES]
        for start in range(0, file.n_frames, stride * block_frames):
            stop = min(start + stride * block_frames, file.n_frames)
            yield [reader.frames(start, stop, stride) for reader in readers]


@contextmanager
def _hdf5(path: Path) -> Iterator[dict[str, h5py.Dataset]]:
    try:
        with h5py.File(path, "r") as file:
            yield {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
    except InputError:
        raise
    except ERRORS as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: NetCDF file is truncated or damaged ({text}); copy it again") from error


def _scale(path: Path, name: str, variable: ClassicVariable | h5py.Dataset) -> float:
    """Factor to Å or kcal/mol/Å. Raises InputError on unknown or missing units."""
    attributes = variable.attributes if isinstance(variable, ClassicVariable) else variable.attrs
    unit, factor = attributes.get("units"), float(np.ravel(attributes.get("scale_factor", 1.0))[0])
    text = unit.decode("utf-8", errors="replace") if isinstance(unit, bytes) else str(unit)
    words = text.lower().replace(" ", "").replace("(", "").replace(")", "").replace("*", "/").split("/")
    if name == "coordinates" and len(words) == 1 and words[0] in LENGTHS:
        return factor * LENGTHS[words[0]]
    if name == "forces" and len(words) == 3 and words[0] in ENERGIES and words[2] in LENGTHS:
        # MDAnalysis writes kcal numbers and unit, with the factor that makes them kJ
        if ENERGIES[words[0]] == 1.0 and abs(factor - KCAL_IN_KJ) < 1e-3:
            factor = 1.0
        return factor * ENERGIES[words[0]] / LENGTHS[words[2]]
    known = "angstrom, nm" if name == "coordinates" else "kilocalorie/mole/angstrom, kilojoule/mole/nanometer"
    raise InputError(f"{path}: {name} have units {text!r}; choose from {known}")
