"""Check of the heaps that hold the texts of an HDF5 file, before the HDF5 library reads them.

Texts of variable length lie in global heap collections, which have no checksum; the library (2.0) loops for
ever in a collection whose objects do not add up, as one flipped bit can make it. HDF5 specification, III.E.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from cgrefine.errors import InputError

SIGNATURE, HEADER_BYTES, OBJECT_BYTES = b"GCOL", 16, 16
REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
"""A text in the data set itself: where its characters are."""


def check_heaps(dataset: h5py.Dataset) -> None:
    """Raises InputError when a heap that a data set of texts points to is damaged.

    Data sets of numbers, and layouts that h5py does not write for texts, pass unseen.
    """
    text = h5py.check_string_dtype(dataset.dtype)
    offset = dataset.id.get_offset() if dataset.chunks is None else None
    if text is None or text.length is not None or offset is None or dataset.size is None:
        return
    path, base = Path(dataset.file.filename), dataset.file.userblock_size
    with path.open("rb") as file:
        file.seek(offset)
        raw = file.read(dataset.size * REFERENCE.itemsize)
        if len(raw) < dataset.size * REFERENCE.itemsize:
            raise _damaged(path, f"texts of {dataset.name} end at byte {offset + len(raw)}")
        for address in np.unique(np.frombuffer(raw, REFERENCE)["address"]).tolist():
            if address:
                _check_collection(file, base + address, path)


def _check_collection(file: BinaryIO, address: int, path: Path) -> None:
    size = path.stat().st_size
    if address + HEADER_BYTES > size:
        raise _damaged(path, f"text heap at byte {address} of {size}")
    file.seek(address)
    header = file.read(HEADER_BYTES)
    total = struct.unpack("<Q", header[8:])[0]
    if header[:4] != SIGNATURE or header[4] != 1 or not HEADER_BYTES <= total <= size - address:
        raise _damaged(path, f"text heap at byte {address}")
    content, at = file.read(total - HEADER_BYTES), 0
    while at + OBJECT_BYTES <= len(content):
        index, length = struct.unpack_from("<H6xQ", content, at)
        if index == 0:  # free space, with its own header, to the end
            if length != len(content) - at:
                raise _damaged(path, f"free space of the text heap at byte {address}")
            return
        at += OBJECT_BYTES + -(-length // 8) * 8
        if at > len(content):
            raise _damaged(path, f"object {index} of the text heap at byte {address}")


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: HDF5 file is truncated or damaged ({what}); copy it again")
