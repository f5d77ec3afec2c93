"""Weights of beads in the loss: by residue type and by temperature, as given or by a rule."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine.config.training import Loss
from cgrefine.data.frames import TEMPERATURE_TOLERANCE_K, FrameSet, thinned
from cgrefine.data.loader import Reading, Weighting, each, sweep
from cgrefine.data.packing import Batch, Budget, slim
from cgrefine.energy import Params, SumOfTerms
from cgrefine.errors import InputError
from cgrefine.fm import loss
from cgrefine.residues import N_SPECIES, RESIDUES

SAMPLED_FRAMES = 2000
"""Frames whose forces a variance is taken from; smaller sets are taken whole."""

READING = Reading(buffer_frames=64, prefetch=2, workers=0)


class Left(NamedTuple):
    """What the priors leave of the forces, on a sample of the frames, by temperature and species.

    squares (levels, 20): (kcal/mol/Å)², summed over components and beads; beads (levels, 20): how many;
    levels (levels,): K.
    """

    squares: np.ndarray
    beads: np.ndarray
    levels: np.ndarray


def weighting(
    frames: FrameSet, settings: Loss, prior: SumOfTerms, prior_params: Params, budget: Budget
) -> Weighting | None:
    """The weights that the configuration asks for, None when all are 1.

    inverse_variance: 1 over the mean square of the force less that of the priors, of a residue type, or of a
    temperature (with the residue types it has): most of it is noise, whose inverse variance gives the
    estimate of least variance (Gauss-Markov). Bonds, which the priors have, would hide the noise.
    inverse_temperature: 1/T. Rules are scaled to a mean of 1 over the beads, or frames. budget: of a batch
    that any frame fits. Raises InputError on a residue or temperature that is not there.
    """
    by_residue, by_temperature = settings.residue_weights, settings.temperature_weights
    if not by_residue and not by_temperature:
        return None
    left = None
    if "inverse_variance" in (by_residue, by_temperature):
        left = left_over(frames, prior, prior_params, budget)
    if by_residue == "inverse_variance":
        assert left is not None
        residue = _inverse(left.squares.sum(0), left.beads.sum(0))
    else:
        residue = _named(by_residue)
    temperature_K = frames.pieces.temperature_K
    if by_temperature == "inverse_temperature":
        piece = _scaled(1.0 / temperature_K, frames.pieces.count)
    elif by_temperature == "inverse_variance":
        assert left is not None
        by_level = _inverse(left.squares.sum(1), left.beads.sum(1))
        piece = by_level[np.searchsorted(left.levels, temperature_K)]
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


def left_over(frames: FrameSet, prior: SumOfTerms, prior_params: Params, budget: Budget) -> Left:
    """Of SAMPLED_FRAMES even frames; those whose forces are not finite are left out."""
    levels = np.unique(frames.pieces.temperature_K)
    sums = np.zeros((2, len(levels), N_SPECIES))
    for _, batch in each(sweep(thinned(frames, SAMPLED_FRAMES), budget, READING)):
        squares = np.asarray(_residual_squares(prior, prior_params, slim(batch)), np.float64)
        real = np.asarray(batch.weight) > 0
        # float32 in the batch, so the nearest
        kelvin = batch.system.temperature_K[batch.system.graph_id[real]]
        level = np.abs(kelvin[:, None] - levels).argmin(1)
        at = (level, batch.system.species[real])
        np.add.at(sums[0], at, squares[real])
        np.add.at(sums[1], at, 1.0)
    return Left(sums[0], sums[1], levels)


@partial(jax.jit, static_argnums=0)
def _residual_squares(prior: SumOfTerms, prior_params: Params, batch: Batch) -> Array:
    """(n,) squared length of the residual force of each bead."""
    return jnp.sum(loss.residual_forces(prior, prior_params, batch) ** 2, axis=-1)


def _inverse(squares: np.ndarray, count: np.ndarray) -> np.ndarray:
    """count over squares of each group, of mean 1 over the beads; 1 where there is none."""
    found = np.ones(len(count))
    present = (count > 0) & (squares > 0)
    found[present] = _scaled(count[present] / squares[present], count[present])
    return found


def _scaled(weights: np.ndarray, count: np.ndarray) -> np.ndarray:
    """With a mean of 1 over counts."""
    return weights * count.sum() / (weights * count).sum()
