"""What every reader of MD gives: a molecule, its runs, and blocks of frames in Å and kcal/mol/Å.

A reader (`mdcath`, `trajectories`, `coarse_npz`) returns a RawDomain; everything after it is the same for
all formats.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from cgrefine.data.topology import Atoms, alpha_carbons
from cgrefine.errors import InputError

CA_CA_RANGE_A = (2.8, 4.5)
FORCE_RMS_RANGE = (0.1, 400.0)
"""Root mean square force per component and atom, kcal/mol/Å: about 20 in proteins.

The same forces give 0.02 in Ha/Bohr and 800 in kJ/mol/nm.
"""
COARSE_FORCE_RMS_RANGE = (0.3, 100.0)
"""The same of beads: sqrt(kT k/3) of bonds with k = 100 to 300 kcal/mol/Å² is 4 to 8, and noise of mapped
forces makes it up to 20; 170 to 800 in kJ/mol/nm."""


@dataclass(frozen=True)
class Run:
    """One trajectory: all frames of one temperature and replica. key: its group inside the domain."""

    key: str
    temperature_K: float
    replica: int
    n_frames: int


@dataclass(frozen=True)
class RawDomain:
    """One molecule without its frames. bonds: (b, 2) atom indices, or None when the source states none.

    read(run, stride, block_frames) yields every stride-th frame of a run, at most block_frames at a time;
    `frame_blocks` calls it. coords and forces may be read-only views of the file, of dtype float32.
    energies: whether the blocks have them.
    """

    path: Path
    name: str
    atoms: Atoms
    bonds: np.ndarray | None
    runs: tuple[Run, ...]
    read: Callable[[Run, int, int], Iterator["Block"]]
    energies: bool = False

    @property
    def source(self) -> str:
        """ "file: domain", for messages."""
        return self.atoms.source

    @property
    def coarse(self) -> bool:
        """Every atom is a Cα: one bead a residue already, and the forces are those of beads."""
        return bool((self.atoms.name == "CA").all())


class Block(NamedTuple):
    """Consecutive kept frames. frame: (f,) index in the run; coords (f, atoms, 3) Å; forces, kcal/mol/Å.

    energy: (f,) kcal/mol, of data that are coarse-grained already and have it.
    """

    frame: np.ndarray
    coords: np.ndarray
    forces: np.ndarray
    energy: np.ndarray | None = None

    def part(self, rows: slice | np.ndarray) -> "Block":
        """These of its frames."""
        energy = None if self.energy is None else self.energy[rows]
        return Block(self.frame[rows], self.coords[rows], self.forces[rows], energy)


def select_runs(domain: RawDomain, temperatures_K: Sequence[float] | None) -> tuple[Run, ...]:
    """The runs at the asked temperatures (all when None). Raises InputError on one that is not there."""
    if temperatures_K is None:
        return domain.runs
    have = sorted({run.temperature_K for run in domain.runs})
    for temperature in temperatures_K:
        if temperature not in have:
            shown = ", ".join(f"{t:g}" for t in have)
            raise InputError(
                f"{domain.source}: no run at {temperature:g} K (data.temperatures_K); there are {shown}"
            )
    return tuple(run for run in domain.runs if run.temperature_K in temperatures_K)


def frame_blocks(domain: RawDomain, run: Run, stride: int, block_frames: int) -> Iterator[Block]:
    """Every stride-th frame of a run, at most block_frames at a time. Raises InputError if unreadable."""
    return domain.read(run, stride, block_frames)


def valid_frames(
    coords: Float[np.ndarray, "frames atoms 3"],
    forces: Float[np.ndarray, "frames atoms 3"],
    limit_A: float,
) -> Bool[np.ndarray, " frames"]:
    """Frames that are finite, within ±limit_A, with at most one atom at the origin, and forces not all zero.

    Broken tails of mdCATH runs hold zeros or 2.1e7 Å (2³¹/100). Costs little more than reading the numbers
    once: sums of squares carry NaN and infinity, and only frames that look odd are looked at atom by atom.
    """
    frames, atoms, _ = coords.shape
    if atoms == 0:
        return np.zeros(frames, bool)
    x, f = (values.reshape(frames, 3 * atoms) for values in (coords, forces))
    size, strength = (np.einsum("fn,fn->f", values, values) for values in (x, f))
    good = np.ones(frames, bool)
    # a comparison with NaN is False
    for frame in np.flatnonzero(~(size <= limit_A**2)):
        good[frame] = np.abs(x[frame]).max() <= limit_A
    for frame in np.flatnonzero(~np.isfinite(strength) | (strength == 0.0)):
        good[frame] &= np.isfinite(f[frame]).all() and f[frame].any()
    for frame in np.flatnonzero(good):
        # bits are counted much faster than numbers; -0.0 does not occur in what a writer left empty
        row = x[frame].view(f"i{x.itemsize}")
        if row.size - np.count_nonzero(row) >= 6:
            good[frame] = np.count_nonzero((coords[frame] == 0.0).all(axis=1)) < 2
    return good


def first_valid_frame(
    domain: RawDomain, runs: Sequence[Run], limit_A: float, stride: int, block_frames: int
) -> tuple[Float[np.ndarray, "atoms 3"], Float[np.ndarray, "atoms 3"]]:
    """Coordinates and forces of the first valid frame, units checked. Raises InputError if there is none."""
    for run in runs:
        for block in frame_blocks(domain, run, stride, block_frames):
            good = np.flatnonzero(valid_frames(block.coords, block.forces, limit_A))
            if len(good):
                coords, forces = block.coords[good[0]], block.forces[good[0]]
                check_values(domain, coords, forces)
                return coords, forces
    raise InputError(
        f"{domain.source}: no valid frame in {len(runs)} runs: all have NaN, zeros, or a coordinate above "
        f"{limit_A:g} Å (data.coordinate_limit_A)"
    )


def check_values(
    domain: RawDomain,
    coords: Float[np.ndarray, "atoms 3"],
    forces: Float[np.ndarray, "atoms 3"],
    where: str = "",
) -> None:
    """Raises InputError when Cα-Cα distances or the size of forces show another unit.

    where: part of the source, for the message.
    """
    ca = alpha_carbons(domain.atoms)
    if len(ca) > 1:
        median = float(np.median(np.linalg.norm(np.diff(coords[ca], axis=0), axis=1)))
        low, high = CA_CA_RANGE_A
        if not low <= median <= high:
            guess = " (nm instead of Å)" if low <= 10 * median <= high else ""
            guess = " (Å stated as nm)" if low <= median / 10 <= high else guess
            raise InputError(
                f"{domain.source}:{where} median distance of consecutive Cα is {median:.3g} Å, must be "
                f"{low} to {high}: coords are in another unit{guess} or scrambled"
            )
    rms = float(np.sqrt(np.mean(np.square(forces, dtype=np.float64))))
    low, high = COARSE_FORCE_RMS_RANGE if domain.coarse else FORCE_RMS_RANGE
    if not low <= rms <= high:
        raise InputError(
            f"{domain.source}:{where} root mean square of forces is {rms:.3g}, must be {low} to {high} "
            "kcal/mol/Å: forces are in another unit"
        )
