"""Histograms as observables: one set of edges for target and model, and no mass ever lost.

Mass outside the edges is kept in two overflow bins, first and last, and never renormalised away.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine.geometry import AnyArray


@dataclass(frozen=True)
class Bins:
    """`count` equal bins from low to high, and one of overflow on each side: size = count + 2."""

    low: float
    high: float
    count: int

    @property
    def size(self) -> int:
        """Entries of a histogram: count, and two of overflow."""
        return self.count + 2

    @property
    def edges(self) -> np.ndarray:
        """(count + 1,) edges of the inner bins."""
        return np.linspace(self.low, self.high, self.count + 1)

    @property
    def centres(self) -> np.ndarray:
        """(count,) centres of the inner bins."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    @property
    def width(self) -> float:
        """Width of an inner bin."""
        return (self.high - self.low) / self.count


def bins(low: float, high: float, width: float) -> Bins:
    """Bins of about the given width (never wider) that fill low to high exactly."""
    return Bins(low, high, max(1, int(np.ceil((high - low) / width - 1e-9))))


def mass(values: Float[AnyArray, " n"], grid: Bins) -> Float[Array, " size"]:
    """Share of the values in each bin, overflow first and last; sums to 1. A value on an edge goes up.

    The upper edge itself belongs to the last inner bin, so that an angle of exactly π is not lost.
    """
    scaled = (jnp.asarray(values) - grid.low) / grid.width
    inner = jnp.where(values == grid.high, grid.count - 1, jnp.floor(scaled)).astype(jnp.int32)
    index = jnp.clip(inner, -1, grid.count) + 1
    return jnp.zeros(grid.size, scaled.dtype).at[index].add(1.0 / scaled.shape[0])


def density(histogram: np.ndarray, grid: Bins) -> np.ndarray:
    """Inner bins as probability density, (..., count), per unit of the coordinate; overflow not included."""
    return histogram[..., 1:-1] / grid.width
