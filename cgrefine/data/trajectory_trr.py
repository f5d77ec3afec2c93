"""Positions and forces from GROMACS .trr files, single or double precision.

A frame is a header of big-endian XDR numbers (magic 1993, a version text, ten section sizes in bytes, atoms,
step, t, lambda) and its sections in order; positions in nm, forces in kJ/mol/nm. Both are written at their
own intervals (nstxout, nstfout): a frame counts where both are there. Molecules must be whole.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from cgrefine.errors import InputError

MAGIC = 1993
VERSION = b"GMX_trn_file"
NM_IN_A = 10.0
KJ_MOL_NM = 1 / 41.84
"""kJ/mol/nm in kcal/mol/Å."""

SECTIONS = ("ir", "e", "box", "vir", "pres", "top", "sym", "x", "v", "f")
FIXED_BYTES = 4 + 4 + 4 + len(VERSION) + 4 * 13


class TrrFile(NamedTuple):
    """Where the numbers lie. positions, forces: (n_frames,) byte offsets; dtype: big-endian float type."""

    path: Path
    n_frames: int
    n_atoms: int
    positions: np.ndarray
    forces: np.ndarray
    dtype: str

    def blocks(self, stride: int, block_frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(coords, forces) of every stride-th frame, Å and kcal/mol/Å, float32."""
        with self.path.open("rb") as file:
            chosen = np.arange(0, self.n_frames, stride)
            for start in range(0, len(chosen), block_frames):
                part = chosen[start : start + block_frames]
                yield (
                    np.stack([self._values(file, int(self.positions[k]), NM_IN_A) for k in part]),
                    np.stack([self._values(file, int(self.forces[k]), KJ_MOL_NM) for k in part]),
                )

    def _values(self, file: BinaryIO, offset: int, scale: float) -> np.ndarray:
        file.seek(offset)
        raw = file.read(3 * self.n_atoms * np.dtype(self.dtype).itemsize)
        if len(raw) != 3 * self.n_atoms * np.dtype(self.dtype).itemsize:
            raise InputError(f"{self.path}: TRR file is cut at byte {offset + len(raw)}; copy it again")
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.frombuffer(raw, self.dtype).reshape(self.n_atoms, 3)
            return (values.astype(np.float64) * scale).astype(np.float32)


class _Frame(NamedTuple):
    """real: bytes of a number; x, f, end: offsets of positions and forces (0: none), of the next frame."""

    n_atoms: int
    real: int
    x: int
    f: int
    end: int


def open_trr(path: Path) -> TrrFile:
    """Find the frames by their headers. Raises InputError on other files, cut ones, or without forces."""
    size, frames, at = path.stat().st_size, list[_Frame](), 0
    with path.open("rb") as file:
        while at < size:
            frame = _frame(file, at, path)
            if frame.end > size:
                raise InputError(
                    f"{path}: TRR file is cut inside frame {len(frames) + 1} ({size} bytes, it ends at "
                    f"{frame.end}); copy it again"
                )
            if frames and (frame.n_atoms, frame.real) != (frames[0].n_atoms, frames[0].real):
                raise InputError(
                    f"{path}: frame {len(frames) + 1} has {frame.n_atoms} atoms of {frame.real} bytes, the "
                    f"first has {frames[0].n_atoms} of {frames[0].real}"
                )
            frames.append(frame)
            at = frame.end
    whole = [frame for frame in frames if frame.x and frame.f]
    if not whole:
        raise InputError(
            f"{path}: none of {len(frames)} frames has both positions and forces; set nstfout to nstxout in "
            "the .mdp file"
        )
    return TrrFile(
        path,
        len(whole),
        frames[0].n_atoms,
        np.asarray([frame.x for frame in whole]),
        np.asarray([frame.f for frame in whole]),
        f">f{frames[0].real}",
    )


def _frame(file: BinaryIO, at: int, path: Path) -> _Frame:
    file.seek(at)
    raw = file.read(FIXED_BYTES)
    if len(raw) < FIXED_BYTES:
        raise InputError(f"{path}: TRR file is cut inside the header at byte {at}; copy it again")
    magic, _, length = struct.unpack_from(">3i", raw)
    if magic != MAGIC or length != len(VERSION) or raw[12 : 12 + length] != VERSION:
        raise InputError(f"{path}: no TRR frame at byte {at}; the file is damaged or not a GROMACS .trr")
    numbers = struct.unpack_from(">13i", raw, 12 + length)
    sizes: dict[str, int] = dict(zip(SECTIONS, numbers, strict=False))
    n_atoms = numbers[10]
    real = _real_bytes(sizes, n_atoms)
    expected = {3 * n_atoms * real, 0}
    if real not in (4, 8) or min(numbers[:11]) < 0 or not {sizes["x"], sizes["v"], sizes["f"]} <= expected:
        raise InputError(f"{path}: header of the TRR frame at byte {at} contradicts itself; copy it again")
    start, offsets = at + FIXED_BYTES + 2 * real, {}
    for name in SECTIONS:
        offsets[name] = start if sizes[name] else 0
        start += sizes[name]
    return _Frame(n_atoms, real, offsets["x"], offsets["f"], start)


def _real_bytes(sizes: dict[str, int], n_atoms: int) -> int:
    """4 or 8 by the first section of known length; anything else when none fits."""
    if sizes["box"]:
        return sizes["box"] // 9
    for name in ("x", "v", "f"):
        if sizes[name] and n_atoms > 0:
            return sizes[name] // (3 * n_atoms)
    return 0
