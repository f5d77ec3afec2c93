"""Header of a classic NetCDF file (version 1 or 2), and its variables as numbers at known places of the file.

Only what trajectories need. A map of the whole file, as scipy makes, would count as memory of the process.
Format: https://docs.unidata.ucar.edu/netcdf-c/current/file_format_specifications.html
"""

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from cgrefine.errors import InputError

MAGIC = (b"CDF\x01", b"CDF\x02")
TYPES = {1: ">i1", 2: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8"}
DIMENSIONS, VARIABLES, ATTRIBUTES = 0x0A, 0x0B, 0x0C
STREAMING = 0xFFFFFFFF
MOST_HEADER_BYTES = 10_000_000


class ClassicVariable(NamedTuple):
    """begin: offset of the first row, step: bytes from row to row; a row is everything but the first axis."""

    shape: tuple[int, ...]
    attributes: dict[str, bytes | float]
    dtype: str
    begin: int
    step: int

    def row(self, file: BinaryIO, number: int) -> np.ndarray:
        """Row `number`, in the file's type. Raises InputError where the file ends."""
        count = int(np.prod(self.shape[1:]))
        file.seek(self.begin + number * self.step)
        raw = file.read(count * np.dtype(self.dtype).itemsize)
        if len(raw) < count * np.dtype(self.dtype).itemsize:
            raise InputError(f"{file.name}: NetCDF file is truncated in row {number + 1}; copy it again")
        return np.frombuffer(raw, self.dtype).reshape(self.shape[1:])


class _Raw(NamedTuple):
    """A variable as the header has it. dims: dimension numbers."""

    name: str
    dims: tuple[int, ...]
    attributes: dict[str, bytes | float]
    dtype: str
    begin: int


def classic_variables(path: Path) -> dict[str, ClassicVariable]:
    """All variables by name. Raises InputError on a header that is cut or contradicts itself."""
    with path.open("rb") as file:
        header = _Header(file.read(MOST_HEADER_BYTES), path)
    size = path.stat().st_size
    records = header.integer()
    lengths = [header.integer() for _ in header.items(DIMENSIONS) if header.name()]
    header.attributes()
    raw = [header.variable(len(lengths)) for _ in header.items(VARIABLES)]

    def row_bytes(v: _Raw) -> int:
        return int(np.prod([lengths[d] for d in v.dims[1:]], dtype=np.int64)) * np.dtype(v.dtype).itemsize

    recorded = [v for v in raw if v.dims and lengths[v.dims[0]] == 0]
    # rows of records are padded to four bytes, unless there is one variable only
    step = sum(-(-row_bytes(v) // 4) * 4 for v in recorded) if len(recorded) > 1 else 0
    found = {}
    for v in raw:
        shape, bytes_ = tuple(lengths[d] for d in v.dims), row_bytes(v)
        if v in recorded:
            between = step or bytes_
            if records == STREAMING:
                records = max(0, (size - v.begin) // max(1, between))
            shape = (records, *shape[1:])
        else:
            between = bytes_
        end = v.begin + (shape[0] - 1) * between + bytes_ if shape and shape[0] else 0
        if end > size:
            raise header.damaged(f"{v.name} ends at byte {end} of {size}")
        found[v.name] = ClassicVariable(shape, v.attributes, v.dtype, v.begin, between)
    return found


class _Header:
    """A reading position in the bytes of a header; whatever does not fit raises InputError."""

    def __init__(self, content: bytes, path: Path) -> None:
        self.content, self.path, self.at = content, path, 4
        self.wide = content[:4] == MAGIC[1]

    def damaged(self, what: str) -> InputError:
        return InputError(f"{self.path}: NetCDF file is truncated or damaged ({what}); copy it again")

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.content):
            raise self.damaged(f"header ends at byte {len(self.content)}")
        self.at += count
        return self.content[self.at - count : self.at]

    def integer(self, form: str = ">I") -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def padded(self, count: int) -> bytes:
        return self.take(-(-count // 4) * 4)[:count]

    def name(self) -> str:
        return self.padded(self.integer()).decode("utf-8", errors="replace") or "?"

    def items(self, tag: int) -> range:
        """As many turns as a list has entries."""
        found, count = self.integer(), self.integer()
        if (found, count) != (0, 0) and (found != tag or count > len(self.content)):
            raise self.damaged(f"list of tag {found} with {count} entries at byte {self.at}")
        return range(count)

    def dtype(self) -> str:
        kind = self.integer()
        if kind not in TYPES:
            raise self.damaged(f"number type {kind}")
        return TYPES[kind]

    def attributes(self) -> dict[str, bytes | float]:
        """Texts as bytes, numbers as their first one."""
        found: dict[str, bytes | float] = {}
        for _ in self.items(ATTRIBUTES):
            name, dtype = self.name(), self.dtype()
            count = self.integer()
            raw = self.padded(count * np.dtype(dtype).itemsize)
            found[name] = raw if dtype == "S1" or not count else float(np.frombuffer(raw, dtype)[0])
        return found

    def variable(self, n_dimensions: int) -> _Raw:
        name = self.name()
        rank = self.integer()
        dims = tuple(self.integer() for _ in range(min(rank, 1024)))
        if rank > 1024 or any(d >= n_dimensions for d in dims):
            raise self.damaged(f"dimensions {dims[:4]} of {name}")
        attributes, dtype = self.attributes(), self.dtype()
        self.integer()  # size of a row, which large variables overflow
        return _Raw(name, dims, attributes, dtype, self.integer(">Q" if self.wide else ">I"))
