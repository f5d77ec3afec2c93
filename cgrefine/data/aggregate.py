"""One all-atom domain to its coarse-grained frames: Cα positions, and forces by both maps, in two passes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cgrefine.config.schema import Data, ForceMap
from cgrefine.data import force_map
from cgrefine.data.source import Block, RawDomain, Run, first_valid_frame, frame_blocks, valid_frames
from cgrefine.data.topology import BeadMapping, bonds_from_geometry, constraint_groups, map_to_beads
from cgrefine.errors import InputError


class MeanSquares(NamedTuple):
    """Mean square force per component by each map, (kcal/mol/Å)², over n_frames (0, 0 if none)."""

    basic: float
    optimal: float
    n_frames: int


@dataclass(frozen=True)
class Aggregated:
    """Coarse frames of one domain. arrays: those of store.ARRAYS. left_out: invalid frames, counted.

    in_sample, held_out: forces on the frames that the map was fitted on, and on the others.
    identity_residual, constraint_residual: conditions (a), (b) of `force_map`, largest violation.
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


def aggregate(
    domain: RawDomain, runs: Sequence[Run], validation: Sequence[bool], data: Data, options: ForceMap
) -> Aggregated:
    """Map the valid frames of `runs` to beads; validation: for each run, whether it is held out.

    The optimal map is fitted on the training runs of this domain, weighting each frame by 1/T, so that
    validation forces are untouched by the fit. A domain whose runs are all held out (a split by domain)
    is fitted on its own frames, since the map belongs to one protein: those forces are in-sample, and
    smaller than true by about the share (free groups)/(3 · frames).
    Raises InputError on units, residues, or no valid frame to fit on.
    """
    frame, _ = first_valid_frame(domain, runs, data.coordinate_limit_A, data.stride, options.block_frames)
    bonds = bonds_from_geometry(domain.atoms, frame) if domain.bonds is None else domain.bonds
    mapping = map_to_beads(domain.atoms, bonds, frame)
    groups = constraint_groups(domain.atoms, bonds)
    fitted = [not held for held in validation] if not all(validation) else [True] * len(runs)
    basic = force_map.basic_map(groups, mapping.ca)
    weights = basic
    if options.kind != "basic":
        fit_runs = [run for run, use in zip(runs, fitted, strict=True) if use]
        weights = _fit(domain, fit_runs, groups, mapping, data, options)
    arrays, left_out = _mapped(domain, runs, validation, mapping, (weights, basic), data, options)
    fit_runs_of_frame = {(r.temperature_K, r.replica): use for r, use in zip(runs, fitted, strict=True)}
    keys = zip(arrays["temperature_K"].tolist(), arrays["replica"].tolist(), strict=True)
    used = np.asarray([fit_runs_of_frame[key] for key in keys], dtype=bool)
    return Aggregated(
        mapping=mapping,
        arrays=arrays,
        n_atoms=len(domain.atoms),
        n_groups=int(groups.max()) + 1,
        left_out=left_out,
        in_sample=_mean_squares(arrays, used),
        held_out=_mean_squares(arrays, ~used),
        identity_residual=force_map.identity_residual(weights, mapping.ca),
        constraint_residual=force_map.constraint_residual(weights, groups),
    )


def _valid_blocks(domain: RawDomain, run: Run, data: Data, options: ForceMap) -> Iterator[tuple[Block, int]]:
    """Blocks of valid frames, each with the number of frames left out of it."""
    for block in frame_blocks(domain, run, data.stride, options.block_frames):
        good = valid_frames(block.coords, block.forces, data.coordinate_limit_A)
        yield Block(*(values[good] for values in block)), int((~good).sum())


def _fit(
    domain: RawDomain,
    runs: Sequence[Run],
    groups: np.ndarray,
    mapping: BeadMapping,
    data: Data,
    options: ForceMap,
) -> np.ndarray:
    state = force_map.gram_init(int(groups.max()) + 1)
    for run in runs:
        for block, _ in _valid_blocks(domain, run, data, options):
            weight = np.full(len(block.frame), 1.0 / run.temperature_K)
            state = force_map.gram_step(state, force_map.group_forces(block.forces, groups), weight)
    if state.weight == 0.0:
        raise InputError(
            f"{domain.source}: no valid frame in the {len(runs)} training runs to fit the map on"
        )
    try:
        return force_map.optimal_map(state, groups, mapping.ca, options.ridge)
    except ValueError as error:
        raise InputError(f"{domain.source}: {error}") from error


def _mapped(
    domain: RawDomain,
    runs: Sequence[Run],
    validation: Sequence[bool],
    mapping: BeadMapping,
    maps: tuple[np.ndarray, np.ndarray],
    data: Data,
    options: ForceMap,
) -> tuple[dict[str, np.ndarray], int]:
    parts: dict[str, list[np.ndarray]] = {}
    left_out = 0
    for run, held in zip(runs, validation, strict=True):
        for block, bad in _valid_blocks(domain, run, data, options):
            n = len(block.frame)
            left_out += bad
            mapped = {
                "positions": block.coords[:, mapping.ca].astype(np.float32),
                "forces": force_map.apply(maps[0], block.forces).astype(np.float32),
                "basic_forces": force_map.apply(maps[1], block.forces).astype(np.float32),
                "temperature_K": np.full(n, run.temperature_K, np.float32),
                "replica": np.full(n, run.replica, np.int32),
                "frame": block.frame.astype(np.int32),
                "validation": np.full(n, held),
            }
            for key, values in mapped.items():
                parts.setdefault(key, []).append(values)
    return {key: np.concatenate(values) for key, values in parts.items()}, left_out


def _mean_squares(arrays: dict[str, np.ndarray], used: np.ndarray) -> MeanSquares:
    if not used.any():
        return MeanSquares(0.0, 0.0, 0)
    basic, optimal = (force_map.mean_square(arrays[key][used]) for key in ("basic_forces", "forces"))
    return MeanSquares(basic, optimal, int(used.sum()))
