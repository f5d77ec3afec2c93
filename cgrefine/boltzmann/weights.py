"""Weights of frames that another energy made, and what they are still worth.

All on the host in float64: energies of whole molecules are large, and their differences of a few kT are what
counts.
"""

import numpy as np
from jaxtyping import Bool, Float, Int


class NoOverlap(ValueError):
    """Frames of several energies, too far apart to be pooled."""


def boltzmann_weights(
    reduced_change: Float[np.ndarray, " frames"], good: Bool[np.ndarray, " frames"] | None = None
) -> Float[np.ndarray, " frames"]:
    """p ∝ exp(-β(U_new - U_old)) of frames that U_old made, from β(U_new - U_old) (f,); they sum to 1.

    good: frames that count; the others have weight 0, whatever stands there. A constant added to all changes
    nothing. Raises ValueError when no frame counts, or a good one is not finite.
    Torrie & Valleau, J. Comput. Phys. 23, 187 (1977), eq. 5.
    """
    change = np.asarray(reduced_change, np.float64)
    counted = np.ones(change.shape, bool) if good is None else np.asarray(good)
    if not counted.any():
        raise ValueError("no frame is left to be weighted")
    if not np.isfinite(change[counted]).all():
        raise ValueError("an energy of a frame that counts is not finite")
    lowest = change[counted].min()
    p = np.where(counted, np.exp(lowest - np.where(counted, change, lowest)), 0.0)
    return p / p.sum()


def uniform_weights(good: Bool[np.ndarray, " frames"]) -> Float[np.ndarray, " frames"]:
    """Equal weights of the good frames, which sum to 1. Raises ValueError without any."""
    return boltzmann_weights(np.zeros(len(good)), good)


def kish_size(weights: Float[np.ndarray, " frames"]) -> float:
    """(Σ p)²/Σ p²: equal weights worth as much to the variance of a mean. Kish, Survey Sampling (1965)."""
    p = np.asarray(weights, np.float64)
    return float(p.sum() ** 2 / np.sum(p**2))


def entropy_size(weights: Float[np.ndarray, " frames"]) -> float:
    """exp(-Σ p ln p) of weights that sum to 1. Carmichael & Shell, J. Phys. Chem. B 116, 8383 (2012).

    Never below `kish_size`, which is the exponential of the Rényi entropy of order 2.
    """
    p = np.asarray(weights, np.float64)
    p = p[p > 0.0]
    return float(np.exp(-np.sum(p * np.log(p))))


def reduced_spread(
    reduced_change: Float[np.ndarray, " frames"], weights: Float[np.ndarray, " frames"]
) -> float:
    """Standard deviation s of β(U_new - U_old) over weighted frames; those of zero weight may hold anything.

    Of a Gaussian change Kish's size is N exp(-s²) and the entropy's N exp(-s²/2), so that s measures a step
    of the parameters before sizes can be told from noise.
    """
    p = np.asarray(weights, np.float64)
    change = np.where(p > 0.0, reduced_change, 0.0)
    return float(np.sqrt(np.sum(p * (change - np.sum(p * change)) ** 2)))


def mixture_weights(
    reduced: Float[np.ndarray, "sources frames"],
    target: Float[np.ndarray, " frames"],
    counts: Int[np.ndarray, " sources"],
    tolerance: float = 1e-10,
    most_rounds: int = 10_000,
) -> Float[np.ndarray, " frames"]:
    """Weights at a target energy of frames pooled from several, which sum to 1.

    reduced: βU of each source at every frame, target: βU at the frames; counts: frames of each source.
        p_s ∝ exp(-u(x_s)) / Σ_k N_k exp(f_k - u_k(x_s)),
        f_k = -ln Σ_s exp(-u_k(x_s)) / Σ_l N_l exp(f_l - u_l(x_s))
    The f_k by iteration to a change of `tolerance` in each. Shirts & Chodera, J. Chem. Phys. 129, 124105
    (2008), eqs. 11 and 14. Raises NoOverlap when the iteration does not settle.
    """
    u = np.asarray(reduced, np.float64)
    logs = np.log(np.asarray(counts, np.float64))[:, None] - u
    f = np.zeros(len(u))
    for _ in range(most_rounds):
        denominators = _log_sum(logs + f[:, None], axis=0)
        new = -_log_sum(-u - denominators, axis=1)
        new -= new[0]
        settled = np.max(np.abs(new - f)) < tolerance
        f = new
        if settled:
            return boltzmann_weights(np.asarray(target, np.float64) + _log_sum(logs + f[:, None], axis=0))
    raise NoOverlap(f"the weights of frames of {len(u)} sources did not settle in {most_rounds} rounds")


def _log_sum(logs: np.ndarray, axis: int) -> np.ndarray:
    highest = logs.max(axis=axis, keepdims=True)
    return np.squeeze(highest, axis) + np.log(np.exp(logs - highest).sum(axis=axis))
