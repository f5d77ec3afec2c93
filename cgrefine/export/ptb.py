"""The `.ptb` container of chemtrain-deploy: one protocol buffer (proto2) with a program and what it needs.

    Model         1 mlir_module    string, StableHLO as text
                  4 neighbor_list  NeighborList
                  5 unit_style     string, the `units` of LAMMPS
    NeighborList  1 type           0: SIMPLE_SPARSE, a list of pairs
                  2 cutoff         float, Å
                  3 nbr_order      int32, twice: how many cutoffs of ghosts with newton on, and off
                  4 half_list      bool: with newton off, each pair comes once

This is the format of chemtrain 0.2.0 and the connector that belongs to it; later ones hold bytes in field 1,
other enumeration values and several programs, and do not read this file. The wire format (tag = field number
× 8 + kind; 0: varint, 2: length and bytes, 5: four bytes) is that of
https://protobuf.dev/programming-guides/encoding. Text, since a string has to be UTF-8.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from cgrefine.errors import InputError

SIMPLE_SPARSE = 0
VARINT, BYTES, FOUR = 0, 2, 5


class Container(NamedTuple):
    """text: StableHLO; cutoff_A as it is stored, float32; nbr_order: newton on, newton off."""

    text: str
    cutoff_A: float
    nbr_order: tuple[int, int]
    half_list: bool = True
    unit_style: str = "real"


def encode(container: Container) -> bytes:
    """The bytes of the file; repeated numbers one by one, as proto2 has them."""
    neighbors = _number(1, SIMPLE_SPARSE) + _tag(2, FOUR) + struct.pack("<f", container.cutoff_A)
    for order in container.nbr_order:
        neighbors += _number(3, order)
    neighbors += _number(4, int(container.half_list))
    return b"".join(
        (_block(1, container.text.encode()), _block(4, neighbors), _block(5, container.unit_style.encode()))
    )


def decode(data: bytes) -> Container:
    """What `encode` wrote. InputError when the bytes are no such container."""
    try:
        model = _fields(data)
        neighbors = _fields(_only(model, 4))
        kind, half = _only(neighbors, 1), _only(neighbors, 4)
        on, off = neighbors.get(3, [])
        (cutoff,) = struct.unpack("<f", _only(neighbors, 2))
        texts = [str(_only(model, field), "utf-8") for field in (1, 5)]
    except (ValueError, TypeError, IndexError, struct.error) as error:
        raise InputError(f"not a .ptb container of SIMPLE_SPARSE pairs: {error}") from error
    if kind != SIMPLE_SPARSE:
        raise InputError(f"neighbour list of type {kind} in a .ptb container: only {SIMPLE_SPARSE} is read")
    return Container(texts[0], cutoff, (int(on), int(off)), bool(half), texts[1])


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the highest bit says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _number(field: int, value: int) -> bytes:
    return _tag(field, VARINT) + _varint(value)


def _block(field: int, data: bytes) -> bytes:
    return _tag(field, BYTES) + _varint(len(data)) + data


def _fields(data: bytes) -> dict[int, list]:
    """Values by field number, in order: int for varints, bytes for the rest."""
    found: dict[int, list] = {}
    for field, value in _scan(data):
        found.setdefault(field, []).append(value)
    return found


def _scan(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    place = 0
    while place < len(data):
        tag, place = _read_varint(data, place)
        field, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, place = _read_varint(data, place)
            yield field, value
            continue
        if kind == BYTES:
            length, place = _read_varint(data, place)
        elif kind == FOUR:
            length = 4
        else:
            raise ValueError(f"field {field} has the unknown kind {kind}")
        if place + length > len(data):
            raise ValueError(f"field {field} ends {place + length - len(data)} bytes after the file")
        yield field, data[place : place + length]
        place += length


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _only(fields: dict[int, list], field: int):
    values = fields.get(field, [])
    if len(values) != 1:
        raise ValueError(f"field {field} is there {len(values)} times, not once")
    return values[0]
