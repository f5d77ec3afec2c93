"""A molecule that is being prepared: its beads, rigid groups, and the frames a force map may be fitted on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from cgrefine.config.data import Data, ForceMap
from cgrefine.data import constraints
from cgrefine.data.source import (
    Block,
    RawDomain,
    Run,
    check_values,
    first_valid_frame,
    frame_blocks,
    valid_frames,
)
from cgrefine.data.threads import in_threads
from cgrefine.data.topology import BeadMapping, bonds_from_geometry, constraint_groups, map_to_beads
from cgrefine.errors import InputError

CIS_MAX_A = 3.4
"""A bond shorter than this in most frames is cis: cis Cα-Cα is 2.95 Å, trans 3.8 Å."""

MOST_FOLDS = 5
"""Replicas beyond these share folds: the cost of a dense cross-fit is one Gram matrix and solution a fold."""

MOST_CONSTRAINT_FRAMES = 1000
"""Frames that are looked at to find rigid bonds in the data: ten times what is needed."""


@dataclass(frozen=True)
class Molecule:
    """What both readings share. bonds: (b, 2) atoms; groups: (atoms,) rigid groups.

    held_from: for each run, its first validation frame. fit_until: a map may be fitted on the frames below
    it. fold: for each run, the fold of those frames; -1 where there are none.
    """

    domain: RawDomain
    runs: tuple[Run, ...]
    held_from: tuple[int, ...]
    fit_until: tuple[int, ...]
    fold: tuple[int, ...]
    mapping: BeadMapping
    bonds: np.ndarray
    groups: np.ndarray
    data: Data
    options: ForceMap

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return max(self.fold) + 1


def prepared(
    domain: RawDomain, runs: Sequence[Run], held_from: Sequence[int], data: Data, options: ForceMap
) -> Molecule:
    """Beads, rigid groups and folds of a molecule. Raises InputError as `aggregate` does."""
    frame, _ = first_valid_frame(domain, runs, data.coordinate_limit_A, data.stride, options.block_frames)
    bonds = bonds_from_geometry(domain.atoms, frame) if domain.bonds is None else domain.bonds
    mapping = map_to_beads(domain.atoms, bonds, frame, modified=data.modified_residues == "map")
    fit_until = tuple(held_from) if any(held_from) else tuple(run.n_frames for run in runs)
    molecule = Molecule(
        domain=domain,
        runs=tuple(runs),
        held_from=tuple(held_from),
        fit_until=fit_until,
        fold=_folds(runs, fit_until),
        mapping=mapping,
        bonds=bonds,
        groups=constraint_groups(domain.atoms, bonds),
        data=data,
        options=options,
    )
    if options.constraints == "data" and not domain.coarse:
        return replace(molecule, groups=_rigid_groups(molecule, frame))
    return molecule


def blocks_of_runs(molecule: Molecule, until: Sequence[int] | None = None) -> Iterator[tuple[int, Block]]:
    """(index of the run, block) of all frames of all runs; with `until`, of those below it in each run."""
    for index, run in enumerate(molecule.runs):
        stop = run.n_frames if until is None else until[index]
        if stop == 0:
            continue
        for block in frame_blocks(molecule.domain, run, molecule.data.stride, molecule.options.block_frames):
            if block.frame[-1] >= stop:
                below = int(np.searchsorted(block.frame, stop))
                block = block.part(slice(below))
            if not len(block.frame):
                break
            yield index, block


def valid_part(molecule: Molecule, run: int, block: Block) -> Block:
    """The valid frames of a block of the run of that index, whose units are checked on the first of them.

    Raises InputError when they are others than Å and kcal/mol/Å.
    """
    good = valid_frames(block.coords, block.forces, molecule.data.coordinate_limit_A)
    if not good.all():
        block = block.part(good)
    if len(block.frame):
        where = f" run {molecule.runs[run].key}:"
        check_values(molecule.domain, block.coords[0], block.forces[0], where)
    return block


def fitting_blocks(molecule: Molecule) -> Iterator[tuple[int, Block, np.ndarray]]:
    """(fold, block, weight of each frame) of all valid frames that a map may be fitted on."""

    def checked(item: tuple[int, Block]) -> tuple[int, Block]:
        return item[0], valid_part(molecule, *item)

    for run, block in in_threads(checked, blocks_of_runs(molecule, molecule.fit_until)):
        temperature_K = molecule.runs[run].temperature_K
        yield molecule.fold[run], block, np.full(len(block.frame), 1.0 / temperature_K)


def _folds(runs: Sequence[Run], fit_until: Sequence[int]) -> tuple[int, ...]:
    """Replicas are folds; where only one is fitted on, each of its runs (temperatures) is one."""
    fitted = [run for run, until in zip(runs, fit_until, strict=True) if until > 0]
    several = len({run.replica for run in fitted}) > 1
    keys = [run.replica if several else run.key for run in fitted]
    rank = {key: place % MOST_FOLDS for place, key in enumerate(dict.fromkeys(keys))}
    of_run = iter(rank[key] for key in keys)
    return tuple(next(of_run) if until > 0 else -1 for until in fit_until)


def _rigid_groups(molecule: Molecule, frame: np.ndarray) -> np.ndarray:
    """Rigid groups found in the coordinates of the first training frames."""
    finder = constraints.finder_init(molecule.domain.atoms, frame)
    for _, block, _ in fitting_blocks(molecule):
        finder = constraints.finder_step(finder, block.coords)
        if finder.n_frames >= MOST_CONSTRAINT_FRAMES:
            break
    try:
        return constraints.rigid_groups(finder, molecule.options.constraint_threshold_A)
    except ValueError as error:
        raise InputError(f"{molecule.domain.source}: {error}") from error


def bond_lengths(
    mapping: BeadMapping, positions: Float[np.ndarray, "frames beads 3"]
) -> Float[np.ndarray, "frames bonds"]:
    """Distances of bonded Cα, Å, in the order of the topology's bonds."""
    # bonds join consecutive beads: a difference along the chain needs no gather
    vectors = np.diff(positions, axis=1)
    return np.sqrt(np.einsum("fbc,fbc->fb", vectors, vectors))[:, mapping.topology.bonds[:, 0]]


def cis_bonds(mapping: BeadMapping, lengths: Float[np.ndarray, "frames bonds"]) -> list[int]:
    """Beads b whose bond b-1 → b is cis in most frames, which is rare except before proline."""
    if not len(lengths):
        return []
    return mapping.topology.bonds[(lengths < CIS_MAX_A).mean(axis=0) > 0.5, 1].tolist()
