"""Weights of beads in the loss: by residue type and by temperature, as given or by a rule."""

from collections.abc import Callable

import numpy as np

from cgrefine.config.training import Loss
from cgrefine.data.frames import TEMPERATURE_TOLERANCE_K, FrameSet
from cgrefine.data.loader import Weighting
from cgrefine.errors import InputError
from cgrefine.residues import N_SPECIES, RESIDUES

SAMPLED_FRAMES = 2000
"""Frames whose forces a variance is taken from; smaller sets are taken whole."""


def weighting(frames: FrameSet, settings: Loss) -> Weighting | None:
    """The weights that the configuration asks for, None when all are 1.

    inverse_variance: 1 over the mean square force of a residue type, or of a temperature (with the residue
    types it has); inverse_temperature: 1/T. Rules are scaled to a mean of 1 over the beads, or frames.
    Raises InputError on a residue or temperature that is not there.
    """
    by_residue, by_temperature = settings.residue_weights, settings.temperature_weights
    if not by_residue and not by_temperature:
        return None
    if by_residue == "inverse_variance":
        residue = _inverse_variance(frames, N_SPECIES, lambda species, piece: species)
    else:
        residue = _named(by_residue)
    temperature_K = frames.pieces.temperature_K
    if by_temperature == "inverse_temperature":
        piece = _scaled(1.0 / temperature_K, frames.pieces.count)
    elif by_temperature == "inverse_variance":
        levels, index = np.unique(temperature_K, return_inverse=True)
        each = _inverse_variance(
            frames, len(levels), lambda species, piece: np.full(len(species), index[piece])
        )
        piece = each[index]
    else:
        piece = _at_temperatures(by_temperature, temperature_K)
    return Weighting(residue.astype(np.float32), piece.astype(np.float64))


def _named(weights: dict[str, float]) -> np.ndarray:
    found = np.ones(N_SPECIES)
    for name, value in weights.items():
        if name not in RESIDUES:
            raise InputError(
                f"train.loss.residue_weights: {name!r} is no residue; choose from {', '.join(RESIDUES)}"
            )
        found[RESIDUES.index(name)] = value
    return found


def _at_temperatures(weights: dict[float, float], temperature_K: np.ndarray) -> np.ndarray:
    found = np.ones(len(temperature_K))
    for wanted, value in weights.items():
        near = np.abs(temperature_K - wanted) < TEMPERATURE_TOLERANCE_K
        if not near.any():
            have = ", ".join(f"{t:g}" for t in np.unique(temperature_K))
            raise InputError(
                f"train.loss.temperature_weights: no training frame is at {wanted:g} K; there are {have} K"
            )
        found[near] = value
    return found


def _inverse_variance(
    frames: FrameSet, n_groups: int, group: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """(n_groups,) 1/⟨F²⟩ of each group of beads, of mean 1 over the beads; 1 where there is none."""
    squares, count = np.zeros(n_groups), np.zeros(n_groups)
    rows = frames.each_once
    for row in np.unique(np.linspace(0, len(rows) - 1, min(SAMPLED_FRAMES, len(rows))).astype(int)).tolist():
        domain, frame = rows.where(row)
        forces = np.asarray(frames.domains[domain].forces[frame], np.float64)
        if not np.all(np.isfinite(forces)):
            continue
        of = group(frames.domains[domain].topology.species, rows.piece_of(row))
        np.add.at(squares, of, (forces**2).sum(1))
        np.add.at(count, of, 1.0)
    found = np.ones(n_groups)
    present = (count > 0) & (squares > 0)
    found[present] = _scaled(count[present] / squares[present], count[present])
    return found


def _scaled(weights: np.ndarray, count: np.ndarray) -> np.ndarray:
    """With a mean of 1 over counts."""
    return weights * count.sum() / (weights * count).sum()
