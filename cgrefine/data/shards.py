"""One array of frames in one .npy file: written durably, hashed, and read frame by frame.

Reading opens the file, reads the asked rows at their offset and closes it: no descriptor stays open however
many domains a data set has, and a file that was cut meanwhile is an error, where a memory map would end the
process. The files are plain .npy, so that other programs can map them.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cgrefine.data.segments import GRID_PER_A
from cgrefine.errors import InputError

ENDS_BYTES = 4096
"""The first and last so many bytes of a file are hashed by themselves, and checked when it is first read."""

HEADER_BYTES = 128
_MAGIC = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")

_SEAL = b',\n"sha256": "'
"""Before the hash that ends a sealed file. JSON text cannot hold it inside a string."""


def array_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The HEADER_BYTES of a .npy file (format 1.0) before its data."""
    facts = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    return _MAGIC + facts.ljust(HEADER_BYTES - len(_MAGIC) - 1).encode() + b"\n"


class Frames:
    """(f, n, 3) or (f,) float32 frames of a .npy file of int16, float16 or float32; indexed along the first
    axis.

    Indices are an integer, a slice, an array of integers or a boolean mask, with the shapes of numpy.
    starts (s,), origins (s, 3): int16 values of the frames from starts[k] on are relative to origins[k];
    both are in 0.01 Å. ends: hash of the file's ends. Raises InputError when the file is damaged.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        path: str,
        stored: np.dtype,
        shape: tuple[int, ...],
        ends: str,
        starts: np.ndarray | None = None,
        origins: np.ndarray | None = None,
    ) -> None:
        self.path, self.stored, self.shape, self.ends = path, stored, shape, ends
        self.starts, self.origins = starts, origins
        self.checked = False

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("frames on disk cannot become an array without a copy")
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, (int, np.integer)):
            row = int(index) + (len(self) if index < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"frame {index} of {len(self)}")
            return self._one(row)
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            rows = np.arange(start, stop, step)
        else:
            rows = _rows(np.asarray(index), len(self), isinstance(index, tuple))
        return self._decoded(self._read(rows), rows)

    def check_header(self) -> None:
        """Compare size and header of the file with what the entry says. Raises InputError."""
        header = array_header(self.stored, self.shape)
        expected = len(header) + math.prod(self.shape) * self.stored.itemsize
        with _opened(self.path) as file:
            size = os.fstat(file).st_size
            if size != expected:
                raise InputError(f"{self.path}: is cut or damaged ({size} bytes, must be {expected})")
            if os.pread(file, len(header), 0) != header:
                raise InputError(f"{self.path}: is damaged (header is not of {self.stored} {self.shape})")

    def _one(self, row: int) -> np.ndarray:
        """One frame: what the loader does all the time, without the arrays of indices."""
        out = np.empty(self.shape[1:], self.stored)
        with _opened(self.path) as file:
            self._check_ends(file)
            _read_into(file, out, HEADER_BYTES + row * out.nbytes, self.path)
        if self.starts is None or self.origins is None:
            return out.astype(np.float32)
        origin = self.origins[self.starts.searchsorted(row, side="right") - 1]
        return ((out + origin) / GRID_PER_A).astype(np.float32)

    def _check_ends(self, file: int) -> None:
        if not self.checked:
            if ends_hash(file) != self.ends:
                raise InputError(f"{self.path}: content is damaged (hash of its first and last bytes)")
            self.checked = True

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """The stored values of these frames, read in stretches of consecutive ones."""
        out = np.empty((len(rows), *self.shape[1:]), self.stored)
        if out.size == 0:
            return out
        row_bytes = out[0].nbytes
        with _opened(self.path) as file:
            self._check_ends(file)
            cuts = np.flatnonzero(np.diff(rows) != 1) + 1
            for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True):
                _read_into(file, out[a:b], HEADER_BYTES + int(rows[a]) * row_bytes, self.path)
        return out

    def _decoded(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if self.starts is None or self.origins is None:
            return values.astype(np.float32)
        segment = np.searchsorted(self.starts, rows, side="right") - 1
        # the float32 nearest to the grid point: a product with 0.01 would be off in the last place
        return ((values + self.origins[segment][:, None]) / GRID_PER_A).astype(np.float32)


def _rows(index: np.ndarray, n_frames: int, several_axes: bool) -> np.ndarray:
    if several_axes or index.ndim != 1 or (index.size and index.dtype.kind not in "iub"):
        raise IndexError("frames are indexed by an integer, a slice, a list of integers or a boolean mask")
    if index.dtype == bool:
        if len(index) != n_frames:
            raise IndexError(f"a mask of {len(index)} frames for {n_frames}")
        return np.flatnonzero(index)
    rows = index.astype(np.int64)
    if rows.size and (rows.min() < -n_frames or rows.max() >= n_frames):
        raise IndexError(f"frames {rows.min()} to {rows.max()} of {n_frames}")
    return np.where(rows < 0, rows + n_frames, rows)


class _opened:
    """A file descriptor for a `with` block; InputError when the file cannot be opened."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> int:
        try:
            self.file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"{self.path}: is missing or cannot be read ({error.strerror})") from error
        return self.file

    def __exit__(self, *exc: object) -> None:
        os.close(self.file)


def _read_into(file: int, out: np.ndarray, offset: int, path: str) -> None:
    done = os.preadv(file, [out.data], offset)
    if done == out.nbytes:
        return
    view = out.reshape(-1).view(np.uint8).data
    while done < len(view):
        count = os.preadv(file, [view[done:]], offset + done)
        if count == 0:
            raise InputError(f"{path}: is cut ({len(view) - done} bytes are missing)")
        done += count


def ends_hash(file: int) -> str:
    """sha256 of the first and last ENDS_BYTES of an open file (all of a short one, twice)."""
    size = os.fstat(file).st_size
    last = os.pread(file, ENDS_BYTES, max(size - ENDS_BYTES, 0))
    return hashlib.sha256(os.pread(file, ENDS_BYTES, 0) + last).hexdigest()


def write_array(path: Path, dtype: np.dtype, shape: tuple[int, ...], parts: Iterator[np.ndarray]) -> dict:
    """Write an array in parts along its first axis, synced to the disk; returns dtype, bytes and hashes."""
    digest = _content_hash()
    with path.open("w+b") as handle:
        header = array_header(dtype, shape)
        digest.update(header)
        handle.write(header)
        for part in parts:
            data = np.ascontiguousarray(part, dtype).data.cast("B") if part.size else b""
            digest.update(data)
            handle.write(data)
        sync(handle)
        size, ends = handle.tell(), ends_hash(handle.fileno())
    return {"dtype": dtype.name, "bytes": size, "blake2b": digest.hexdigest(), "ends": ends}


def sync(handle: io.BufferedIOBase | io.BufferedRandom | io.BufferedWriter) -> None:
    """Flush a file to the disk."""
    handle.flush()
    os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _content_hash() -> Any:
    """BLAKE2b of 256 bits: as safe as SHA-256, and nearly twice as fast in software."""
    return hashlib.blake2b(digest_size=32)


def file_hash(path: Path) -> str:
    """BLAKE2b (256 bits) of a whole file. Raises InputError when it cannot be read."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, _content_hash).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: is missing or cannot be read ({error.strerror})") from error


def sealed(content: Mapping[str, Any]) -> bytes:
    """JSON with the hash of its own bytes at the end; a list under `domains` has one line an item."""
    rows = content.get("domains")
    head = {key: value for key, value in content.items() if key != "domains"}
    text = json.dumps(head, sort_keys=True, default=_plain, allow_nan=False)[:-1]
    if rows is not None:
        lines = (json.dumps(row, sort_keys=True, default=_plain, allow_nan=False) for row in rows)
        text += ',\n"domains": [\n' + ",\n".join(lines) + "\n]"
    body = text.encode()
    return body + _seal(body)


def unsealed(path: Path, data: bytes, version: int) -> dict[str, Any]:
    """The content of `sealed` bytes, whose `format` must be `version`. Raises InputError otherwise."""
    try:
        content = json.loads(data)
    except ValueError as error:
        raise InputError(f"{path}: is damaged, no valid JSON ({error})") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != version:
        raise InputError(
            f"{path}: format is {found}, this version reads {version}; run `cgrefine prepare` again"
        )
    body = data[: data.rfind(_SEAL)]
    if data[len(body) :] != _seal(body):
        raise InputError(f"{path}: content is damaged (its sha256 does not agree)")
    del content["sha256"]
    return content


def _seal(body: bytes) -> bytes:
    return _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")
