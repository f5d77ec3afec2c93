"""Positions `R` and forces `F` (frames, rows, 3) from an .npz file, read as a stream, compressed or not.

No pickle. The zip's checksums are compared when a run has been read to its end.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from cgrefine.errors import InputError

UNITS = {"A,kcal/mol/A": (1.0, 1.0), "nm,kJ/mol/nm": (10.0, 1 / 41.84)}
"""units in data.trajectories and data.coarse → factors of R and F to Å and kcal/mol/Å."""
TEXTS = ("name", "resname", "species", "resid", "z", "bonds")
ERRORS = (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, MemoryError,
          SyntaxError, TokenError, zipfile.BadZipFile, zlib.error, struct.error)  # fmt: skip
"""What zipfile and numpy raise on damaged files, by the place of the damage."""


@runtime_checkable
class Stream(Protocol):
    """An open member of the zip."""

    def read(self, size: int = -1, /) -> bytes:
        """At most size bytes, fewer only at the end."""
        ...


class NpzFile(NamedTuple):
    """scales: of R and F, to Å and kcal/mol/Å."""

    path: Path
    n_frames: int
    n_atoms: int
    scales: tuple[float, float]

    def blocks(
        self, stride: int, block_frames: int, frames: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(coords, forces) of every stride-th of `frames` (rising; default: all), Å and kcal/mol/Å, float32.

        All of the file is read, whichever frames are asked for: a zip's checksum is that of a whole member.
        """
        chosen = (np.arange(self.n_frames) if frames is None else frames)[::stride]
        try:
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open("R.npy") as positions,
                archive.open("F.npy") as forces,
            ):
                dtypes = [_header(stream, self.path)[1] for stream in (positions, forces)]
                start = 0
                for first in range(0, len(chosen), block_frames):
                    wanted = chosen[first : first + block_frames]
                    last = first + block_frames >= len(chosen)
                    stop = self.n_frames if last else int(wanted[-1]) + 1
                    yield (
                        self._block(positions, dtypes[0], range(start, stop), wanted, self.scales[0]),
                        self._block(forces, dtypes[1], range(start, stop), wanted, self.scales[1]),
                    )
                    start = stop
                for stream in (positions, forces):
                    if stream.read(1):  # reading the end compares the checksum
                        raise InputError(f"{self.path}: npz member is longer than its shape says")
        except InputError:
            raise
        except ERRORS as error:
            raise damaged(self.path, error) from error

    def _block(
        self, stream: Stream, dtype: np.dtype, frames: range, wanted: np.ndarray, scale: float
    ) -> np.ndarray:
        """Read `frames`, which are next in the stream, and keep the wanted ones among them."""
        row, kept = 3 * self.n_atoms, 0
        found = np.empty((len(wanted), self.n_atoms, 3), np.float32)
        for frame in frames:
            raw = stream.read(row * dtype.itemsize)
            if len(raw) != row * dtype.itemsize:
                raise InputError(f"{self.path}: npz member ends in frame {frame + 1} of {self.n_frames}")
            if kept < len(wanted) and frame == wanted[kept]:
                values = np.frombuffer(raw, dtype).reshape(self.n_atoms, 3)
                with np.errstate(over="ignore", invalid="ignore"):
                    found[kept] = values.astype(np.float64) * scale
                kept += 1
        return found


def open_npz(path: Path, units: str) -> NpzFile:
    """Shapes and types of R and F. Raises InputError on other or damaged files, and on pickled objects."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            for key in ("R", "F"):
                if key not in names:
                    raise InputError(
                        f"{path}: npz has no {key}; found {', '.join(names) or 'nothing'} (positions R and "
                        "forces F are needed)"
                    )
            shapes = []
            for key in ("R", "F"):
                with archive.open(f"{key}.npy") as stream:
                    shapes.append(_header(stream, path)[0])
    except InputError:
        raise
    except ERRORS as error:
        raise damaged(path, error) from error
    first, second = shapes
    if first != second or len(first) != 3 or first[2] != 3 or 0 in first:
        raise InputError(f"{path}: R {first} and F {second} must both be (frames, rows, 3), none of them 0")
    return NpzFile(path, first[0], first[1], UNITS[units])


def npz_texts(path: Path) -> dict[str, np.ndarray]:
    """The small arrays that describe the rows. Raises InputError on damaged files and pickled objects."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: np.asarray(arrays[key]) for key in TEXTS if key in arrays.files}
    except ERRORS as error:
        if "Object arrays" in str(error):
            raise InputError(
                f"{path}: npz holds Python objects, which are not read; save texts as str arrays"
            ) from error
        raise damaged(path, error) from error


def _header(stream: Stream, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an .npy stream, which is left at its first number."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise InputError(f"{path}: .npy version {version} is not read, only (1, 0) and (2, 0)")
    if dtype.hasobject:
        raise InputError(
            f"{path}: npz holds Python objects, which are not read; save R and F as float arrays"
        )
    if dtype.kind != "f" or (fortran and len(shape) > 1):
        order = "Fortran" if fortran else "C"
        raise InputError(f"{path}: R and F must be floating point in C order, found {dtype} in {order} order")
    return shape, dtype


def damaged(path: Path, error: Exception) -> InputError:
    """What is said of a file that cannot be read to its end."""
    text = " ".join(str(error).split())
    return InputError(f"{path}: npz file is truncated or damaged ({text}); copy it again")
