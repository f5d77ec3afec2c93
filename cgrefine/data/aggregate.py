"""One all-atom molecule to its coarse-grained frames: Cα positions, and forces by the map that is asked for.

The frames are read block by block, once to fit a map that belongs to this molecule (optimal, windowed) and
once to apply it; a pooled or basic map needs one reading.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cgrefine.config.data import Data, ForceMap
from cgrefine.data import force_map, force_noise, force_pooled, force_window
from cgrefine.data.force_pooled_map import PooledMap
from cgrefine.data.maps import Mapper, Maps, dense_states, maps_of
from cgrefine.data.molecule import (
    Molecule,
    blocks_of_runs,
    bond_lengths,
    cis_bonds,
    prepared,
    valid_part,
)
from cgrefine.data.source import Block, RawDomain, Run
from cgrefine.data.threads import in_threads
from cgrefine.data.topology import BeadMapping
from cgrefine.errors import InputError

BOND_EDGES_A = np.linspace(2.6, 4.4, 91)

SQUARED_FRAMES, LENGTH_FRAMES = 1000, 2000
"""Mean squares and bond lengths of a long molecule are taken over about so many even frames: enough for a
part in a thousand."""


class MeanSquares(NamedTuple):
    """Mean square force per component by each map, (kcal/mol/Å)², over n_frames (0, 0 if none)."""

    basic: float
    optimal: float
    n_frames: int


@dataclass(frozen=True)
class Aggregated:
    """Coarse frames of one molecule. arrays: those of store.write_domain. left_out: invalid frames, counted.

    in_sample, held_out: forces on the frames that their map was fitted on, and on the others.
    identity_residual, constraint_residual: conditions (a), (b) of `force_map`, largest violation.
    cis_bonds: beads b whose bond b-1 → b is cis. bond_histogram: of bonded Cα-Cα distances on BOND_EDGES_A.
    """

    mapping: BeadMapping
    arrays: dict[str, np.ndarray]
    n_atoms: int
    n_groups: int
    left_out: int
    in_sample: MeanSquares
    held_out: MeanSquares
    identity_residual: float
    constraint_residual: float
    cis_bonds: list[int]
    bond_histogram: np.ndarray


def aggregate(
    domain: RawDomain,
    runs: Sequence[Run],
    held_from: Sequence[int],
    data: Data,
    options: ForceMap,
    pooled: PooledMap | None = None,
    in_fit: bool = False,
) -> Aggregated:
    """Map the valid frames of `runs` to beads. held_from: for each run, its first validation frame.

    pooled: the map of kind pooled; in_fit: whether it was fitted on this molecule's training frames.

    A map that belongs to the molecule is fitted on training frames only, each weighted by 1/T; when all
    frames are held out (a split by domain), on them. With options.cross_fit the forces of a replica come from
    the other replicas' fit (of a run, where there is one replica), and are unbiased; without, fitted frames
    lose a share (coefficients)/(3 · frames) of everything. Raises InputError on units, residues, no valid
    frame, or too few runs to cross-fit.
    """
    molecule = prepared(domain, runs, held_from, data, options)
    return _mapped(molecule, maps_of(molecule, pooled, in_fit))


def noise_report(
    domain: RawDomain,
    runs: Sequence[Run],
    held_from: Sequence[int],
    data: Data,
    options: ForceMap,
    pooled: PooledMap | None,
) -> dict[str, Any]:
    """{"maps": {map: numbers of `force_noise`}} on the folds of the molecule: one reading, dense matrices."""
    molecule = prepared(domain, runs, held_from, data, options)
    states = dense_states(molecule)
    local = None
    if pooled is not None:
        local = force_pooled.instantiate(pooled, domain.atoms, molecule.mapping, molecule.groups)
    try:
        rows = force_noise.noise_report(
            states,
            molecule.groups,
            molecule.mapping.ca,
            force_window.residue_numbers(domain.atoms, molecule.mapping),
            options.ridge,
            options.window,
            local,
        )
    except ValueError as error:
        raise InputError(f"{domain.source}: {error}") from error
    return {"maps": {row.name: row._asdict() for row in rows}}


class _Squares(NamedTuple):
    """Sums of squares of basic and mapped forces over `n` components; n_frames stands for more frames."""

    basic: float = 0.0
    mapped: float = 0.0
    n: int = 0
    n_frames: int = 0

    def plus(self, other: "_Squares") -> "_Squares":
        return _Squares(
            self.basic + other.basic,
            self.mapped + other.mapped,
            self.n + other.n,
            self.n_frames + other.n_frames,
        )

    def mean(self) -> MeanSquares:
        if not self.n:
            return MeanSquares(0.0, 0.0, 0)
        return MeanSquares(self.basic / self.n, self.mapped / self.n, self.n_frames)


class _Piece(NamedTuple):
    """What became of a block. good: (frames,) which rows were written. squares: in-sample, held out."""

    good: np.ndarray
    squares: tuple[_Squares, _Squares]


def _mapped(molecule: Molecule, maps: Maps) -> Aggregated:
    """The second reading: every frame has its rows in arrays of the full size; invalid ones are cut out."""
    room = sum(-(-run.n_frames // molecule.data.stride) for run in molecule.runs)
    arrays = _room(room, molecule.mapping.topology.n_beads, molecule.domain.energies)
    basic, every = _basic(molecule), max(1, room // SQUARED_FRAMES)

    def work(item: tuple[int, int, Block]) -> _Piece:
        start, run, block = item
        rows = {key: values[start : start + len(block.frame)] for key, values in arrays.items()}
        return _piece(molecule, maps, basic, every, run, block, rows)

    pieces = list(in_threads(work, _placed(blocks_of_runs(molecule))))
    good = np.concatenate([piece.good for piece in pieces])
    if not good.all():
        arrays = {key: values[good] for key, values in arrays.items()}
    squares = [_Squares(), _Squares()]
    for piece in pieces:
        squares = [one.plus(more) for one, more in zip(squares, piece.squares, strict=True)]
    some = arrays["positions"][:: max(1, int(good.sum()) // LENGTH_FRAMES)]
    lengths = bond_lengths(molecule.mapping, some)
    return Aggregated(
        mapping=molecule.mapping,
        arrays=arrays,
        n_atoms=len(molecule.domain.atoms),
        n_groups=int(molecule.groups.max()) + 1,
        left_out=int((~good).sum()),
        in_sample=squares[0].mean(),
        held_out=squares[1].mean(),
        identity_residual=maps.residuals[0],
        constraint_residual=maps.residuals[1],
        cis_bonds=cis_bonds(molecule.mapping, lengths),
        bond_histogram=_histogram(lengths),
    )


def _room(frames: int, beads: int, energies: bool) -> dict[str, np.ndarray]:
    room = {
        "positions": np.empty((frames, beads, 3), np.float32),
        "forces": np.empty((frames, beads, 3), np.float32),
        "temperature_K": np.empty(frames, np.float32),
        "replica": np.empty(frames, np.int32),
        "frame": np.empty(frames, np.int32),
        "validation": np.empty(frames, bool),
    }
    if energies:
        room["energies"] = np.empty(frames, np.float64)
    return room


def _placed(blocks: Iterator[tuple[int, Block]]) -> Iterator[tuple[int, int, Block]]:
    """(row of its first frame, run, block)."""
    start = 0
    for run, block in blocks:
        yield start, run, block
        start += len(block.frame)


def _piece(
    molecule: Molecule,
    maps: Maps,
    basic: Mapper,
    every: int,
    index: int,
    block: Block,
    rows: dict[str, np.ndarray],
) -> _Piece:
    """Write a block's rows by the maps of its run: one below fit_until, the other from there on."""
    run, all_frames = molecule.runs[index], block.frame
    block = valid_part(molecule, index, block)
    good = np.isin(all_frames, block.frame)
    if not good.any():
        return _Piece(good, (_Squares(), _Squares()))
    rows["temperature_K"][:], rows["replica"][:], rows["frame"][:] = (
        run.temperature_K,
        run.replica,
        all_frames,
    )
    rows["validation"][:] = all_frames >= molecule.held_from[index]
    positions = np.take(block.coords, molecule.mapping.ca, axis=1)
    kept = slice(None) if good.all() else good
    rows["positions"][kept] = positions
    if block.energy is not None:
        rows["energies"][kept] = block.energy
    below = int(np.searchsorted(block.frame, molecule.fit_until[index]))
    parts = ((slice(0, below), maps.fitted[index], maps.in_sample), (slice(below, None), maps.rest, False))
    squares, forces = {True: _Squares(), False: _Squares()}, []
    for part, mapper, seen in parts:
        if not len(block.frame[part]):
            continue
        mapped = mapper(block.forces[part])
        if molecule.options.zero_net_force:
            mapped = force_map.remove_net_force_and_torque(positions[part], mapped)
        forces.append(mapped)
        some = slice(part.start, part.stop, every)
        pair = basic(block.forces[some]), mapped[::every]
        one, other = (float(np.einsum("fbc,fbc->", f, f, dtype=np.float64)) for f in pair)
        squares[seen] = squares[seen].plus(_Squares(one, other, pair[1].size, len(mapped)))
    rows["forces"][kept] = np.concatenate(forces) if len(forces) > 1 else forces[0]
    return _Piece(good, (squares[True], squares[False]))


def _basic(molecule: Molecule) -> Mapper:
    """The basic map: forces on each Cα and what is rigidly bonded to it, by gathers of those atoms alone."""
    own = molecule.groups[molecule.mapping.ca]
    members = [np.flatnonzero(molecule.groups == group) for group in own]
    rounds = []
    for j in range(max(len(atoms) for atoms in members)):
        beads = [bead for bead, atoms in enumerate(members) if len(atoms) > j]
        rounds.append((np.asarray(beads), np.asarray([members[bead][j] for bead in beads])))

    def mapper(forces: np.ndarray) -> np.ndarray:
        summed = np.take(forces, rounds[0][1], axis=1)
        for beads, atoms in rounds[1:]:
            summed[:, beads] += np.take(forces, atoms, axis=1)
        return summed

    return mapper


def _histogram(lengths: np.ndarray) -> np.ndarray:
    """Counts on BOND_EDGES_A, which are evenly spaced; lengths outside are left out."""
    width = BOND_EDGES_A[1] - BOND_EDGES_A[0]
    place = np.floor((lengths - BOND_EDGES_A[0]) / width).astype(np.int64)
    return np.bincount(place[(place >= 0) & (place < len(BOND_EDGES_A) - 1)], minlength=len(BOND_EDGES_A) - 1)
