"""How beads move in time: velocity autocorrelation, mean squared displacement, diffusion.

Coarse-grained kinetics are those of the model and its friction, not of the protein.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cgrefine.errors import InputError
from cgrefine.observables.statistics import independent, lagged_products


def velocity_autocorrelation(
    velocities: Float[np.ndarray, "frames beads 3"], lags: int
) -> Float[np.ndarray, "lags 3"]:
    """⟨v(t) v(t + lag)⟩ of each dimension, mean over beads and all windows; unit of velocity squared.

    At lag 0 it is kT/m, in any dimension. Its integral is the diffusion coefficient (Green-Kubo).
    """
    frames, beads, _ = velocities.shape
    if not 0 < lags <= frames:
        raise ValueError(f"{lags} lags of {frames} frames: must be from 1 to the number of frames")
    v = np.asarray(velocities, np.float64).reshape(frames, -1)
    windows = frames - np.arange(lags)
    return lagged_products(v, lags).reshape(lags, beads, 3).mean(1) / windows[:, None]


def mean_squared_displacement(
    positions: Float[np.ndarray, "frames beads 3"], lags: int
) -> Float[np.ndarray, "lags 3"]:
    """⟨(x(t + lag) - x(t))²⟩ of each dimension, Å², mean over beads and all windows; unwrapped positions.

    By FFT: x² sums less twice the autocorrelation. Kneller, Keiner, Kneller & Schiller, Comput. Phys. Commun.
    91, 191 (1995). The mean position is taken off first, against differences of large numbers.
    """
    frames, beads, _ = positions.shape
    if not 0 < lags <= frames:
        raise ValueError(f"{lags} lags of {frames} frames: must be from 1 to the number of frames")
    x = np.asarray(positions, np.float64).reshape(frames, -1)
    x = x - x.mean(0)
    below = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x**2, axis=0)])
    lag = np.arange(lags)
    # Σ_{t=0}^{f-1-lag} x²(t) + Σ_{t=lag}^{f-1} x²(t)
    squares = below[frames - lag] + below[-1] - below[lag]
    found = (squares - 2.0 * lagged_products(x, lags)) / (frames - lag)[:, None]
    found[0] = 0.0  # but for rounding
    return found.reshape(lags, beads, 3).mean(1)


class Diffusion(NamedTuple):
    """Coefficients in Å²/ps. D, stderr: mean of the dimensions; D_dimensions: (3,) of each.

    msd: (lags, 3) Å², mean over groups. fit_ps: the lags that were fitted. groups: how many, and `blocks`
    whether they are pieces of a single run instead of runs.
    """

    D: float
    stderr: float
    D_dimensions: np.ndarray
    msd: np.ndarray
    fit_ps: tuple[float, float]
    groups: int
    blocks: bool


def diffusion(
    runs: Sequence[Float[np.ndarray, "_ beads 3"]], frame_ps: float, fit_ps: tuple[float, float]
) -> Diffusion:
    """Diffusion coefficient from MSD = 2 D t + c in each dimension, by a straight line over lags fit_ps.

    Standard error from the spread of D between runs; a single run is cut into BLOCKS pieces. Windows
    overlap, so the residuals of the line say nothing of it. For a molecule give its centre of mass,
    x.mean(1, keepdims=True). Raises InputError when a piece is shorter than the last lag, or fewer than two
    lags lie in the range.
    """
    pieces = independent(runs)
    first, last = int(np.ceil(fit_ps[0] / frame_ps - 1e-9)), int(np.floor(fit_ps[1] / frame_ps + 1e-9))
    if last <= first:
        raise InputError(
            f"diffusion: fit_ps {fit_ps[0]:g} to {fit_ps[1]:g} holds fewer than two lags of frames "
            f"{frame_ps:g} ps apart; widen it"
        )
    shortest = min(map(len, pieces))
    if last >= shortest:
        raise InputError(
            f"diffusion: fit_ps ends at {fit_ps[1]:g} ps, and the shortest of {len(pieces)} pieces lasts "
            f"{(shortest - 1) * frame_ps:g} ps; end it earlier"
        )
    lag = np.arange(first, last + 1)
    msd = np.stack([mean_squared_displacement(piece, last + 1) for piece in pieces])
    time = lag * frame_ps - np.mean(lag * frame_ps)
    slopes = np.einsum("l,gld->gd", time, msd[:, lag]) / np.sum(time**2) / 2.0
    each = slopes.mean(1)
    return Diffusion(
        D=float(each.mean()),
        stderr=float(each.std(ddof=1) / np.sqrt(len(each))),
        D_dimensions=slopes.mean(0),
        msd=msd.mean(0),
        fit_ps=(first * frame_ps, last * frame_ps),
        groups=len(pieces),
        blocks=len(runs) == 1,
    )
