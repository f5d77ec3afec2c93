"""Frames of (frames, atoms, 3) HDF5 data sets: mapped from the file where they lie plain, else by chunks."""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from jaxtyping import Float

from cgrefine.errors import InputError


class Mapped(NamedTuple):
    """An uncompressed contiguous little-endian float32 data set: where its numbers lie in the file.

    Blocks are read-only views of the file, with no copy and no lock of HDF5. Each block is mapped alone, so
    that a long run does not count as memory of this process.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]

    def frames(self, start: int, stop: int, stride: int) -> Float[np.ndarray, "frames atoms 3"]:
        """Every stride-th frame from start to stop. Raises InputError when the file ends before."""
        row = 4 * int(np.prod(self.shape[1:]))
        size, end = self.path.stat().st_size, self.offset + stop * row
        if end > size:
            raise InputError(
                f"{self.path}: HDF5 file is truncated or damaged ({size} bytes, frames up to byte {end}); "
                "copy it again"
            )
        shape = (stop - start, *self.shape[1:])
        values = np.memmap(self.path, np.dtype("<f4"), "r", self.offset + start * row, shape)
        return values.view(np.ndarray)[::stride]


class Chunked:
    """A data set of any other layout, read in whole rows of chunks, so that each is decompressed once."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self.rows = dataset.chunks[0] if dataset.chunks else max(1, 2**22 // max(1, 3 * dataset.shape[1]))
        self.last: tuple[int, np.ndarray] | None = None

    def frames(self, start: int, stop: int, stride: int) -> Float[np.ndarray, "frames atoms 3"]:
        """Every stride-th frame from start to stop, as float32. NaN or infinity stay what they are."""
        wanted = np.arange(start, stop, stride)
        found = np.empty((len(wanted), *self.dataset.shape[1:]), np.float32)
        for slab in np.unique(wanted // self.rows):
            here = wanted // self.rows == slab
            with np.errstate(over="ignore", invalid="ignore"):
                found[here] = self._slab(int(slab))[wanted[here] - slab * self.rows]
        return found

    def _slab(self, number: int) -> np.ndarray:
        if self.last is None or self.last[0] != number:
            self.last = None
            rows = self.dataset[number * self.rows : (number + 1) * self.rows]
            self.last = (number, rows)
        return self.last[1]


def frames_of(dataset: h5py.Dataset, path: Path) -> Mapped | Chunked:
    """How to read a data set of an open file. A Mapped one stays usable after the file is closed."""
    offset = dataset.id.get_offset() if dataset.chunks is None else None
    plain = offset is not None and dataset.dtype == np.dtype("<f4")
    # virtual and external data sets have their numbers elsewhere
    plain = plain and not dataset.is_virtual and not dataset.external
    if not plain:
        return Chunked(dataset)
    assert offset is not None
    return Mapped(path, int(offset), dataset.shape)


def stored_whole(dataset: h5py.Dataset) -> bool:
    """Whether an uncompressed data set occupies what its shape needs; a damaged shape does not."""
    if dataset.chunks is not None or dataset.is_virtual or dataset.external:
        return True
    stored = dataset.id.get_storage_size()
    return stored in (0, dataset.size * dataset.dtype.itemsize)
