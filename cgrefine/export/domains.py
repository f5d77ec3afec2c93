"""How LAMMPS and the connector of chemtrain-deploy call a `.ptb` program, without either: to check a file.

Space is cut into slabs along x. Each has its own beads, ghosts within the range that the container asks for,
a list of pairs with a skin, padding, and forces that are added up at the owners (newton on) or are those of
the slab itself (newton off). The connector regrows the buffer of edges and calls again, so does this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from cgrefine.export.deploy import DomainValues
from cgrefine.export.ptb import Container

SPECIAL_SHIFT = 30
"""LAMMPS adds the kind of a special neighbour (1-2: 1, 1-3: 2, 1-4: 3) to its index by these bits."""
MOST_CALLS = 10


@runtime_checkable
class Domain(Protocol):
    """What is called for each domain, as `deploy.DomainProgram`."""

    @property
    def container(self) -> Container: ...

    def __call__(self, *args: Any, **kwargs: Any) -> DomainValues: ...


@dataclass(frozen=True)
class Host:
    """padding: factor of the rooms for beads, pairs and edges; skin_A: the list is longer than the cutoff,
    and holds until beads have moved by half of it; seed: beads and pairs of each domain in another order;
    room: for edges at the first call, one in the connector. least_rows, least_pairs: room for beads and pairs
    that there is at least, before padding: runs of the same rooms share what was compiled."""

    newton: bool
    domains: int = 2
    padding: float = 1.2
    skin_A: float = 2.0
    seed: int | None = None
    room: int = 1
    least_rows: int = 1
    least_pairs: int = 1


class HostValues(NamedTuple):
    """energy kcal/mol, forces (n, 3) kcal/mol/Å; calls: of each domain, more than one when room ran out."""

    energy: float
    forces: np.ndarray
    calls: tuple[int, ...]


class Slab(NamedTuple):
    """owners (rows,) of local beads and ghosts, shifts (rows, 3) Å to where they stand, how many are local,
    and the pairs of the list, indices of rows (without bits of special neighbours)."""

    owners: np.ndarray
    shifts: np.ndarray
    n_local: int
    senders: np.ndarray
    receivers: np.ndarray


def run(
    program: Domain,
    positions: Float[np.ndarray, "beads 3"],
    species: Int[np.ndarray, " beads"],
    host: Host,
    box_A: Float[np.ndarray, "3"] | None = None,
    listed_at: Float[np.ndarray, "beads 3"] | None = None,
    special: Mapping[tuple[int, int], int] | None = None,
) -> HostValues:
    """Energy and forces of a system in the box (periodic) or in free space.

    listed_at: where beads were when lists were made; special: kind of special neighbours i < j.
    Raises RuntimeError when a domain asks for more room again and again.
    """
    asked = program.container
    order = asked.nbr_order[0 if host.newton else 1]
    there = np.asarray(positions if listed_at is None else listed_at, np.float64)
    wrap = np.zeros_like(there) if box_A is None else -np.floor(there / box_A) * box_A
    slabs = _slabs(there + wrap, box_A, host, order, asked)
    rows = ceil(host.padding * max(host.least_rows, *(len(s.owners) for s in slabs)))
    pairs = ceil(host.padding * max(host.least_pairs, *(len(s.senders) for s in slabs)))
    energy, forces, calls = 0.0, np.zeros((len(positions), 3)), []
    for slab in slabs:
        n, n_pairs = len(slab.owners), len(slab.senders)
        x, kinds = np.zeros((rows, 3)), np.zeros(rows, np.int32)
        x[:n] = (positions + wrap)[slab.owners] + slab.shifts
        kinds[:n] = species[slab.owners]
        ends = [np.full(pairs, rows, np.int32) for _ in range(2)]
        ends[0][:n_pairs] = slab.senders
        ends[1][:n_pairs] = slab.receivers ^ _bits(slab, special or {})
        room, call = min(host.room, 2 * pairs), 0
        while True:
            values = program(x, kinds, slab.n_local, n - slab.n_local, host.newton, *ends, room)
            call += 1
            if values.needed_edges <= room:
                break
            if call == MOST_CALLS:
                raise RuntimeError(f"a domain asks for room for {values.needed_edges} edges, and has {room}")
            room = min(ceil(host.padding * int(values.needed_edges)), 2 * pairs)
        calls.append(call)
        energy += float(values.energy)
        kept = n if host.newton else slab.n_local
        np.add.at(forces, slab.owners[:kept], np.asarray(values.forces, np.float64)[:kept])
    return HostValues(energy, forces, tuple(calls))


def _slabs(x: np.ndarray, box_A: np.ndarray | None, host: Host, order: int, asked: Container) -> list[Slab]:
    """Domains that own beads; the outer ones of free space have no end."""
    low, high = (x[:, 0].min(), x[:, 0].max()) if box_A is None else (0.0, float(box_A[0]))
    edges = np.linspace(low, high, host.domains + 1)
    owner = np.clip(np.searchsorted(edges, x[:, 0], side="right") - 1, 0, host.domains - 1)
    halo = order * asked.cutoff_A + host.skin_A
    rng = None if host.seed is None else np.random.default_rng(host.seed)
    if box_A is None:
        images = np.zeros((1, 3))
        edges[0], edges[-1] = -np.inf, np.inf
        bounds = np.array([[-np.inf] * 3, [np.inf] * 3])
    else:
        reach = [range(-ceil(halo / length), ceil(halo / length) + 1) for length in box_A]
        images = np.array(sorted(product(*reach), key=lambda s: s != (0, 0, 0))) * box_A
        bounds = np.stack([np.zeros(3), box_A])
    found = []
    for number in range(host.domains):
        mine = np.flatnonzero(owner == number)
        if not len(mine):
            continue
        bounds[:, 0] = edges[number], edges[number + 1]
        owners, shifts = [mine], [np.zeros((len(mine), 3))]
        for shift in images:
            near = ((x + shift >= bounds[0] - halo) & (x + shift < bounds[1] + halo)).all(axis=1)
            if not shift.any():
                near &= owner != number
            owners.append(np.flatnonzero(near))
            shifts.append(np.broadcast_to(shift, (near.sum(), 3)))
        rows, moved = np.concatenate(owners), np.concatenate(shifts)
        if rng is not None:
            mixed = np.concatenate(
                [rng.permutation(len(mine)), rng.permutation(np.arange(len(mine), len(rows)))]
            )
            rows, moved = rows[mixed], moved[mixed]
        found.append(
            Slab(rows, moved, len(mine), *_pairs(x[rows] + moved, len(mine), host, order, asked, rng))
        )
    return found


def _pairs(
    x: np.ndarray, n_local: int, host: Host, order: int, asked: Container, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """The list of a domain: of local rows, and of ghosts too when more than nearest neighbours count."""
    centres = len(x) if order > 1 else n_local
    distance = np.linalg.norm(x[None] - x[:centres, None], axis=-1)
    near = distance < asked.cutoff_A + host.skin_A
    # REQ_FULL unless newton is off and the container asks for half a list
    if asked.half_list and not host.newton:
        near &= np.arange(len(x))[None] > np.arange(centres)[:, None]
    else:
        near &= np.arange(len(x))[None] != np.arange(centres)[:, None]
    i, j = near.nonzero()
    mixed = np.arange(len(i)) if rng is None else rng.permutation(len(i))
    return i[mixed].astype(np.int32), j[mixed].astype(np.int32)


def _bits(slab: Slab, special: Mapping[tuple[int, int], int]) -> np.ndarray:
    """What LAMMPS has in the upper two bits of a receiver, int32."""
    i, j = slab.owners[slab.senders], slab.owners[slab.receivers]
    ends = zip(np.minimum(i, j).tolist(), np.maximum(i, j).tolist(), strict=True)
    kinds = np.array([special.get(pair, 0) for pair in ends], np.uint32)
    return (kinds << np.uint32(SPECIAL_SHIFT)).view(np.int32)
