"""How ensemble means change with the energy's parameters: one coefficient a frame, one reverse pass for all.

With p ∝ exp(-βU_θ), the mean of an observable g changes as

    d⟨g⟩/dθ = ⟨∂g/∂θ⟩ - β Cov(g, ∂U/∂θ)

and a loss L(⟨g⟩) of many observables as the gradient of the surrogate Σ_s a_s U_θ(x_s) over frames s with

    a_s = -β p_s v_s B,    v_s = Σ_k L'_k (g_sk - ⟨g_k⟩),    L'_k = ∂L/∂⟨g_k⟩,

held fixed. Since Σ_s a_s = 0, an energy that is shifted by a constant changes nothing. B is Bessel's factor,
N/(N - 1) for N independent frames of equal weight. No derivative of a frame's energy is ever stored, whatever
the number of observables. Raja, Amin, Pedregosa & Krishnapriyan, TMLR 2025 (arXiv:2402.13984), eq. 6, for one
frame at a time; the sum is exchanged here.

This module has the coefficients: host arrays in float64. The reverse pass is `boltzmann.surrogate`.
Centring within replicas: blocks of frames (those of a replica) each with their own mean of g, since between
replicas that do not mix the differences are those of their starts. Their covariances are averaged with the
weight of the block.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from cgrefine.observables.statistics import correlation

Slope = Callable[[np.ndarray], np.ndarray]
"""The derivative of a loss at means (k,): (k,)."""


class NotTold(ValueError):
    """The frames are too few to tell a covariance."""


def weighted_mean(
    values: Float[np.ndarray, "frames *shape"], weights: Float[np.ndarray, " frames"]
) -> Float[np.ndarray, "*shape"]:
    """Σ_s p_s g_s; frames of zero weight may hold anything, NaN too."""
    return np.tensordot(np.asarray(weights, np.float64), _counted(values, weights), axes=1)


def coefficients(
    values: Float[np.ndarray, "frames k"],
    weights: Float[np.ndarray, " frames"],
    slope: Float[np.ndarray, " k"],
    beta: float,
    blocks: Int[np.ndarray, " frames"] | None = None,
    n_eff: float | Float[np.ndarray, " blocks"] | None = None,
) -> Float[np.ndarray, " frames"]:
    """a_s of the surrogate, 1/(kcal/mol) times the unit of the loss.

    values: observables of each frame in a row; weights: p_s, which sum to 1, 0 on frames that do not count.
    slope: L'. beta: 1/kT, mol/kcal. blocks: 0, 1, ...: frames that are centred together (default: all).
    n_eff: independent frames of each block, for Bessel's factor n/(n - 1); default: Kish's number of its
    weights, 1/Σp²; inf: weights that are exact, factor 1. Blocks of at most one independent frame tell no
    covariance and are left out; the others take their weight.
    Raises ValueError when beta is not positive, NotTold when no block is left.
    """
    v = projected(values, weights, slope, blocks)
    return _bessel(weights, beta, blocks, n_eff) * v


def projected(
    values: Float[np.ndarray, "frames k"],
    weights: Float[np.ndarray, " frames"],
    slope: Float[np.ndarray, " k"],
    blocks: Int[np.ndarray, " frames"] | None = None,
) -> Float[np.ndarray, " frames"]:
    """v_s = Σ_k L'_k (g_sk - ⟨g_k⟩), centred within blocks; 0 on frames that do not count.

    The one number a frame whose covariance with ∂U/∂θ is wanted.
    """
    along = np.where(
        np.asarray(weights) > 0.0, _counted(values, weights) @ np.asarray(slope, np.float64), 0.0
    )
    return _centred(along, weights, blocks)


def split_half_coefficients(
    values: Float[np.ndarray, "frames k"],
    weights: Float[np.ndarray, " frames"],
    slope: Slope,
    beta: float,
    second: Bool[np.ndarray, " frames"],
    blocks: Int[np.ndarray, " frames"] | None = None,
    n_eff: float | Float[np.ndarray, " blocks"] | None = None,
) -> Float[np.ndarray, " frames"]:
    """Coefficients whose slope comes from the other half of the frames: without bias for a quadratic loss.

    The residual L' and the covariance of the same N frames share their noise, so that their product is off
    by O(1/N). second: frames of the second half; a block (replica) is to lie in one half.
    Raises ValueError when a block lies in both halves, NotTold when a half has no weight.
    """
    p, later = np.asarray(weights, np.float64), np.asarray(second)
    if blocks is not None and set(blocks[later].tolist()) & set(blocks[~later].tolist()):
        raise ValueError("a block of frames lies in both halves")
    total = np.zeros(len(p))
    for half in (later, ~later):
        own, other = np.where(half, p, 0.0), np.where(half, 0.0, p)
        if own.sum() == 0.0 or other.sum() == 0.0:
            raise NotTold("a half of the frames has no weight")
        there = slope(weighted_mean(values, other / other.sum()))
        total += 0.5 * coefficients(values, own / own.sum(), there, beta, blocks, n_eff)
    return total


def local_coefficients(
    values: Float[np.ndarray, "frames parts k"],
    weights: Float[np.ndarray, " frames"],
    slope: Float[np.ndarray, "parts k"],
    beta: float,
    reach: Bool[np.ndarray, "parts beads"],
    blocks: Int[np.ndarray, " frames"] | None = None,
    n_eff: float | Float[np.ndarray, " blocks"] | None = None,
) -> Float[np.ndarray, "frames beads"]:
    """Coefficients of bead energies: covariance of each part's observables with the energies in its reach.

    Cov(g_i, ∂U/∂θ) is cut to Σ_{j in B(i)} Cov(g_i, ∂u_j/∂θ), each part i (residue) centred by itself: far
    energies add little to it and much to its variance. Biased unless reach is all beads, where it equals
    `coefficients`. reach: B(i).
    """
    along = np.stack([projected(values[:, i], weights, slope[i], blocks) for i in range(values.shape[1])], 1)
    return _bessel(weights, beta, blocks, n_eff)[:, None] * (along @ np.asarray(reach, np.float64))


def relative_entropy_coefficients(
    weights: Float[np.ndarray, " frames"], reference_weights: Float[np.ndarray, " reference"], beta: float
) -> tuple[Float[np.ndarray, " frames"], Float[np.ndarray, " reference"]]:
    """Of dS_rel/dθ = β(⟨∂U/∂θ⟩_ref - ⟨∂U/∂θ⟩_model), for model frames and reference frames; S_rel in nats.

    Shell, J. Chem. Phys. 129, 144108 (2008), eq. 11. First moments only: no product of noisy means.
    """
    return -_positive(beta) * np.asarray(weights), beta * np.asarray(reference_weights)


def effective_sizes(
    series: Float[np.ndarray, " frames"],
    weights: Float[np.ndarray, " frames"],
    blocks: Int[np.ndarray, " frames"] | None = None,
) -> Float[np.ndarray, " blocks"]:
    """Independent frames of each block, N/(2τ), from the correlation of a series in order of time.

    τ is that of all blocks together, each about its own mean, because a single block is too short for its
    own; frames without weight are left out. series: usually `projected`. At most N, at least one of a block
    that has any; a series that never changes counts as one frame.
    """
    labels = _labels(weights, blocks)
    good = np.asarray(weights) > 0.0
    parts = [series[good & (labels == b)] for b in range(labels.max() + 1)]
    moving = [part - part.mean() for part in parts if len(part) > 1]
    found = correlation(moving) if moving else None
    time = math.inf if found is None or math.isnan(found.time) else max(found.time, 0.5)
    return np.array([max(len(part) / (2.0 * time), min(len(part), 1)) for part in parts], np.float64)


def _bessel(
    weights: np.ndarray, beta: float, blocks: np.ndarray | None, n_eff: float | np.ndarray | None
) -> np.ndarray:
    """-β p_s n/(n - 1), with the weight of blocks that are left out given to the others."""
    p, labels = np.asarray(weights, np.float64), _labels(weights, blocks)
    count = labels.max() + 1
    share = np.bincount(labels, p, count)
    kish = share**2 / np.where(share > 0.0, np.bincount(labels, p**2, count), 1.0)
    n = kish if n_eff is None else np.broadcast_to(np.asarray(n_eff, np.float64), (count,))
    told = (share > 0.0) & (n > 1.0 + 1e-9)
    if not told.any():
        raise NotTold("no block of frames has more than one independent frame: no covariance")
    finite = np.where(np.isinf(n) | ~told, 2.0, n)
    factor = np.where(np.isinf(n), 1.0, finite / (finite - 1.0))
    factor = np.where(told, factor * share.sum() / share[told].sum(), 0.0)
    return -_positive(beta) * p * factor[labels]


def _centred(along: np.ndarray, weights: np.ndarray, blocks: np.ndarray | None) -> np.ndarray:
    p, labels = np.asarray(weights, np.float64), _labels(weights, blocks)
    count = labels.max() + 1
    share = np.bincount(labels, p, count)
    mean = np.bincount(labels, p * along, count) / np.where(share > 0.0, share, 1.0)
    return np.where(p > 0.0, along - mean[labels], 0.0)


def _labels(weights: np.ndarray, blocks: np.ndarray | None) -> np.ndarray:
    return np.zeros(len(weights), np.int64) if blocks is None else np.asarray(blocks, np.int64)


def _counted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    good = np.reshape(np.asarray(weights) > 0.0, (-1, *[1] * (np.ndim(values) - 1)))
    return np.where(good, np.asarray(values, np.float64), 0.0)


def _positive(beta: float) -> float:
    if not beta > 0.0:
        raise ValueError(f"beta = {beta:g}: must be above 0 (mol/kcal)")
    return beta
