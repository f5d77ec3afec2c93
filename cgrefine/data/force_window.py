"""Force maps of short reach: bead I uses only groups of residues within ±k of its own along the chain.

The conditions and the objective are those of `force_map`; only the free groups of a bead are fewer, about 8
a residue, so that little is fitted (p ≈ 20 at k = 1) and the map costs little. Needed of the Gram matrix is
a band: pairs of groups at most 2k residues apart. It is summed in tiles of TILE_RESIDUES residues and the
2k after them, one matrix product a tile and block of frames, and then each bead solves its own small ridge
regression. Sums of a block are in float32 (relative error of a Gram element 1e-6 of the diagonal), blocks
are added in float64.

    residue = residue_numbers(atoms, mapping)          # jumps at chain breaks: no window reaches across
    band = make_band(residue, groups, mapping.ca, k)
    state = band_init(band)                            # one per fold; states add: state.values, band_total
    state = band_step(band, state, block.forces, 1 / temperature_K)
    local = window_fit(band, state, ridge)             # or cross_fit(band, states, ridge): .folds[r], .all
    forces = apply_local(local, block.forces)          # (frames, beads, 3) float32
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from cgrefine.data.force_map import Summation, check_folds, group_planes, summation
from cgrefine.data.topology import Atoms, BeadMapping

TILE_RESIDUES = 6
TILE_BEADS = 5
"""Sizes of the matrix products of the fit and of `apply_local`: smaller ones lose speed in BLAS, larger ones
do more work outside the band."""

SERIAL_WORK = 900_000
"""Multiplications in one matrix product; OpenBLAS uses threads above 10⁶, and on a busy machine, where one of
them has to wait, such a product takes a hundred times longer."""

BATCH_ELEMENTS = 4_000_000
"""Elements of the small Gram matrices that are gathered at a time."""

SEGMENT_GAP = 1000
"""Added to the residue number at each chain break: more than any window."""

N_TERMINAL_CAPS = frozenset({"ACE", "FOR"})
"""Caps that belong to the residue after them; the other ones belong to the residue before."""


class Tile(NamedTuple):
    """Columns [start, stop) against [start, halo), stored row by row from `offset` in BandState.values."""

    start: int
    stop: int
    halo: int
    offset: int


@dataclass(frozen=True, eq=False)
class Band:
    """Which groups each bead may use, and which pairs of groups are summed.

    groups: (atoms,) group of each atom; ca: (beads,) atoms; k: reach in residues. Columns are the groups
    sorted by residue: group: (columns,) group of each, residue: (columns,) its number. own: (beads,) column
    of each bead's group; low, high: (beads,) columns [low, high) of its window; free: (columns,) whether the
    group holds no Cα. size: number of sums.
    """

    groups: np.ndarray
    ca: np.ndarray
    k: int
    group: np.ndarray
    residue: np.ndarray
    own: np.ndarray
    low: np.ndarray
    high: np.ndarray
    free: np.ndarray
    tiles: tuple[Tile, ...]
    size: int

    @cached_property
    def plan(self) -> Summation:
        """Summation of atoms into columns."""
        column = np.empty(len(self.group), np.int64)
        column[self.group] = np.arange(len(self.group))
        return summation(column[self.groups])

    def window(self, bead: int) -> Int[np.ndarray, " w"]:
        """Columns of the free groups of a bead."""
        columns = np.arange(self.low[bead], self.high[bead])
        return columns[self.free[columns]]


class BandState(NamedTuple):
    """Sums over frames. values: (band.size,) float64, Σ weight · f_g f_h of the tiles. weight: 3 Σ weight."""

    values: np.ndarray
    weight: float
    n_frames: int


@dataclass(frozen=True, eq=False)
class LocalMap:
    """A force map of short reach: bead b uses the atoms [start[b], start[b] + offset[b+1] - offset[b]).

    coefficients: (offset[-1],) float64, those of bead b from offset[b] on; equal inside each rigid group.
    """

    n_atoms: int
    start: np.ndarray
    offset: np.ndarray
    coefficients: np.ndarray

    @property
    def n_beads(self) -> int:
        """Number of beads."""
        return len(self.start)

    @cached_property
    def kernels(self) -> tuple[tuple[int, int, np.ndarray], ...]:
        """First bead, first atom and matrix (3 atoms, 3 beads) float32 of each tile of beads: W ⊗ 1."""
        stop = self.start + np.diff(self.offset)
        tiles = []
        for bead in range(0, self.n_beads, TILE_BEADS):
            beads = range(bead, min(bead + TILE_BEADS, self.n_beads))
            first, last = int(self.start[beads].min()), int(stop[beads].max())
            weights = np.zeros((last - first, len(beads)), np.float32)
            for i, b in enumerate(beads):
                rows = slice(int(self.start[b]) - first, int(stop[b]) - first)
                weights[rows, i] = self.coefficients[self.offset[b] : self.offset[b + 1]]
            tiles.append((bead, first, np.kron(weights, np.eye(3, dtype=np.float32))))
        return tuple(tiles)


class LocalCrossFit(NamedTuple):
    """folds: map r fitted on all folds but r. all: fitted on all, for frames in no fold."""

    folds: tuple[LocalMap, ...]
    all: LocalMap


def residue_numbers(atoms: Atoms, mapping: BeadMapping) -> Int[np.ndarray, " atoms"]:
    """Residue of each atom along the file, plus SEGMENT_GAP at each chain break. Caps count as residues.

    Caps between two segments belong to the one their name says (ACE and FOR begin a segment).
    """
    owner = atoms.residue[mapping.ca]
    names = dict(zip(atoms.residue.tolist(), atoms.resname.tolist(), strict=True))
    numbers = atoms.residue.astype(np.int64)
    for bead in mapping.breaks:
        begin = int(owner[bead])
        while begin - 1 > owner[bead - 1] and names[begin - 1] in N_TERMINAL_CAPS:
            begin -= 1
        numbers[atoms.residue >= begin] += SEGMENT_GAP
    return numbers


def make_band(
    residue: Int[np.ndarray, " atoms"],
    groups: Int[np.ndarray, " atoms"],
    ca: Int[np.ndarray, " beads"],
    k: int,
) -> Band:
    """The band of a molecule. residue: number of each atom's residue; those of a window differ by at most k.

    A group belongs to the residue of its first atom. Windows and the halo of a tile are contiguous columns.
    """
    _, first = np.unique(groups, return_index=True)
    group = np.argsort(residue[first], kind="stable")
    number = residue[first][group]
    column = np.empty(len(group), np.int64)
    column[group] = np.arange(len(group))
    own = column[groups[ca]]
    free = np.ones(len(group), bool)
    free[own] = False
    present = np.unique(number)
    tiles, size = [], 0
    for i in range(0, len(present), TILE_RESIDUES):
        last = present[min(i + TILE_RESIDUES, len(present)) - 1]
        start = int(np.searchsorted(number, present[i]))
        stop, halo = (int(n) for n in np.searchsorted(number, [last, last + 2 * k], "right"))
        tiles.append(Tile(start, stop, halo, size))
        size += (stop - start) * (halo - start)
    return Band(
        groups=groups,
        ca=ca,
        k=k,
        group=group,
        residue=number,
        own=own,
        low=np.searchsorted(number, number[own] - k, "left"),
        high=np.searchsorted(number, number[own] + k, "right"),
        free=free,
        tiles=tuple(tiles),
        size=size,
    )


def band_init(band: Band) -> BandState:
    """No frame seen yet."""
    return BandState(np.zeros(band.size), 0.0, 0)


def band_step(
    band: Band, state: BandState, forces: Float[np.ndarray, "frames atoms 3"], weight: float
) -> BandState:
    """Add a block of atomic forces, all of the same weight (1/T of its run); the given state is used up."""
    columns = group_planes(forces, band.plan, np.float32).reshape(3 * len(forces), -1)
    for start, stop, halo, offset in band.tiles:
        shape = (stop - start, halo - start)
        sums = state.values[offset : offset + shape[0] * shape[1]].reshape(shape)
        for part in _parts(len(columns), sums.size):
            sums += weight * (columns[part, start:stop].T @ columns[part, start:halo])
    return BandState(state.values, state.weight + 3.0 * weight * len(forces), state.n_frames + len(forces))


def band_total(states: Sequence[BandState]) -> BandState:
    """The sum of states, in the given order."""
    values = states[0].values.copy()
    for state in states[1:]:
        values += state.values
    return BandState(values, sum(s.weight for s in states), sum(s.n_frames for s in states))


def band_gram(
    band: Band, state: BandState, rows: Int[np.ndarray, "*n"], columns: Int[np.ndarray, "*n"]
) -> Float[np.ndarray, "*n"]:
    """Gram elements of pairs of columns at most 2k residues apart."""
    start, _, halo, offset = np.asarray(band.tiles).T
    low, high = np.minimum(rows, columns), np.maximum(rows, columns)
    tile = np.repeat(np.arange(len(start)), np.diff(start, append=len(band.group)))[low]
    return state.values[offset[tile] + (low - start[tile]) * (halo - start)[tile] + high - start[tile]]


def solve_windows(
    band: Band, gram: Callable[[np.ndarray, np.ndarray], np.ndarray], ridge: float
) -> tuple[np.ndarray, ...]:
    """Coefficients of each bead's free groups (band.window), least mean square plus the ridge.

    gram(rows, columns): Gram elements of pairs of columns, two arrays of one shape. ridge: relative to the
    mean diagonal of the window's free groups. Raises ValueError when a Gram matrix is singular.
    """
    windows = [band.window(bead) for bead in range(len(band.own))]
    width = max(len(window) for window in windows)
    together = max(1, BATCH_ELEMENTS // max(1, width**2))
    solutions: list[np.ndarray] = []
    for first in range(0, len(windows), together):
        part = windows[first : first + together]
        solutions += _solve_batch(band, gram, ridge, first, part)
    return tuple(solutions)


def _solve_batch(
    band: Band,
    gram: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ridge: float,
    first: int,
    windows: list[np.ndarray],
) -> list[np.ndarray]:
    """Solutions of beads first, first + 1, ...: windows filled up to one width with the unit matrix."""
    sizes = np.asarray([len(window) for window in windows])
    own = band.own[first : first + len(windows)]
    used = np.arange(sizes.max()) < sizes[:, None]
    columns = np.repeat(own[:, None], sizes.max(), axis=1)
    columns[used] = np.concatenate(windows)
    pairs = np.broadcast_arrays(columns[:, :, None], columns[:, None, :])
    unit = np.eye(sizes.max())
    design = np.where(used[:, :, None] & used[:, None, :], gram(*pairs), unit)
    diagonal = np.einsum("bii->bi", design)
    mean = np.sum(diagonal, axis=1, where=used) / np.maximum(sizes, 1)
    design += ridge * mean[:, None, None] * unit
    target = np.where(used, gram(columns, np.broadcast_to(own[:, None], columns.shape)), 0.0)
    for bead, matrix in enumerate(design):
        if not sizes[bead]:
            continue
        try:
            factor = cho_factor(matrix, lower=True, check_finite=False)
        except LinAlgError as error:
            raise ValueError(
                f"the Gram matrix of the {sizes[bead]} free groups within {band.k} residues of bead "
                f"{first + bead} is singular with force_map.ridge {ridge:g}: use more frames or a larger "
                "ridge"
            ) from error
        target[bead] = -cho_solve(factor, target[bead], check_finite=False)
    return [x[:size] for x, size in zip(target, sizes, strict=True)]


def window_fit(band: Band, state: BandState, ridge: float) -> LocalMap:
    """The windowed optimal map. Raises ValueError when a Gram matrix is singular."""
    return local_map(band, solve_windows(band, lambda r, c: band_gram(band, state, r, c), ridge))


def cross_fit(band: Band, states: Sequence[BandState], ridge: float) -> LocalCrossFit:
    """For each fold the map fitted on the other ones, and the map fitted on all, for frames in no fold.

    Raises ValueError when fewer than two folds have frames, or a Gram matrix is singular.
    """
    check_folds([state.n_frames for state in states])
    total = band_total(states)
    rest = (total._replace(values=total.values - state.values) for state in states)
    return LocalCrossFit(tuple(window_fit(band, s, ridge) for s in rest), window_fit(band, total, ridge))


def local_map(band: Band, coefficients: Sequence[np.ndarray]) -> LocalMap:
    """The map with the given coefficients of each bead's free groups; conditions (a) and (b) always hold."""
    by_column = np.zeros(len(band.group))
    column = np.empty(len(band.group), np.int64)
    column[band.group] = np.arange(len(band.group))
    of_atom = column[band.groups]
    reach = np.full((len(band.group), 2), (len(of_atom), -1))
    np.minimum.at(reach[:, 0], of_atom, np.arange(len(of_atom)))
    np.maximum.at(reach[:, 1], of_atom, np.arange(len(of_atom)))
    start, values = [], []
    for bead, (own, x) in enumerate(zip(band.own, coefficients, strict=True)):
        used = np.append(band.window(bead), own)
        first, last = int(reach[used, 0].min()), int(reach[used, 1].max())
        by_column[used] = np.append(x, 1.0)
        start.append(first)
        values.append(by_column[of_atom[first : last + 1]])
        by_column[used] = 0.0
    offset = np.cumsum([0] + [len(v) for v in values])
    return LocalMap(len(of_atom), np.asarray(start), offset, np.concatenate(values))


def apply_local(
    local: LocalMap, forces: Float[np.ndarray, "frames atoms 3"]
) -> Float[np.ndarray, "frames beads 3"]:
    """Bead forces W F of each frame in float32: a matrix product a tile of beads, on views of the forces."""
    frames, atoms, _ = forces.shape
    if atoms != local.n_atoms:
        raise ValueError(f"forces have {atoms} atoms, the map was made for {local.n_atoms}")
    flat = np.ascontiguousarray(forces, np.float32).reshape(frames, 3 * atoms)
    mapped = np.empty((frames, 3 * local.n_beads), np.float32)
    for bead, atom, kernel in local.kernels:
        rows, columns = kernel.shape
        for part in _parts(frames, kernel.size):
            out = mapped[part, 3 * bead : 3 * bead + columns]
            np.matmul(flat[part, 3 * atom : 3 * atom + rows], kernel, out=out)
    return mapped.reshape(frames, local.n_beads, 3)


def _parts(rows: int, work: int) -> list[slice]:
    """Slices of the rows of a product with `work` multiplications a row, each below SERIAL_WORK."""
    n = max(1, -(-rows * work // SERIAL_WORK))
    return [slice(rows * i // n, rows * (i + 1) // n) for i in range(n)]


def to_dense(local: LocalMap) -> Float[np.ndarray, "beads atoms"]:
    """The map as one matrix W, float64."""
    weights = np.zeros((local.n_beads, local.n_atoms))
    for bead, start in enumerate(local.start):
        x = local.coefficients[local.offset[bead] : local.offset[bead + 1]]
        weights[bead, start : start + len(x)] = x
    return weights


def local_residuals(
    local: LocalMap, groups: Int[np.ndarray, " atoms"], ca: Int[np.ndarray, " beads"]
) -> tuple[float, float]:
    """Largest violations of conditions (a) and (b), as `force_map.identity_residual` and
    `constraint_residual` give them for the dense matrix, without making it.
    """
    width = np.diff(local.offset)
    bead = np.repeat(np.arange(local.n_beads), width)
    atom = np.arange(local.offset[-1]) + np.repeat(local.start - local.offset[:-1], width)
    x = local.coefficients
    bead_of = np.full(local.n_atoms, -1)
    bead_of[ca] = np.arange(len(ca))
    at_ca = bead_of[atom] >= 0
    identity = np.abs(x[at_ca] - (bead_of[atom[at_ca]] == bead[at_ca])).max(initial=0.0)
    reached = np.bincount(bead[at_ca & (bead_of[atom] == bead)], minlength=local.n_beads) == 1
    identity = max(identity, 0.0 if reached.all() else 1.0)
    order = np.lexsort((groups[atom], bead))
    member, owner, value = groups[atom][order], bead[order], x[order]
    begin = np.flatnonzero(np.append(True, (np.diff(member) != 0) | (np.diff(owner) != 0)))
    high, low = np.maximum.reduceat(value, begin), np.minimum.reduceat(value, begin)
    count = np.diff(np.append(begin, len(value)))
    # atoms outside the window have coefficient 0
    cut = count < np.bincount(groups)[member[begin]]
    high, low = np.where(cut, np.maximum(high, 0.0), high), np.where(cut, np.minimum(low, 0.0), low)
    return float(identity), float((high - low).max(initial=0.0))
