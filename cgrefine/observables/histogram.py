"""Histograms as observables: one set of edges for target and model, and no mass ever lost.

Mass outside the edges is kept in two overflow bins, first and last, and never renormalised away.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from cgrefine.geometry import AnyArray


@dataclass(frozen=True)
class Bins:
    """`count` equal bins from low to high, and one of overflow on each side: size = count + 2.

    periodic: low and high are the same point, as of dihedrals; every value is wrapped to between them, and
    the bins of overflow stay empty.
    """

    low: float
    high: float
    count: int
    periodic: bool = False

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


def bins(low: float, high: float, width: float, periodic: bool = False) -> Bins:
    """Bins of about the given width (never wider) that fill low to high exactly."""
    return Bins(low, high, max(1, int(np.ceil((high - low) / width - 1e-9))), periodic)


def mass(
    values: Float[AnyArray, " n"],
    grid: Bins,
    smear: float = 0.0,
    weights: Float[AnyArray, " n"] | None = None,
) -> Float[Array, " size"]:
    """Share of the values in each bin, overflow first and last; sums to 1. A value on an edge goes up.

    The upper edge itself belongs to the last inner bin, so that an angle of exactly π is not lost.
    smear: standard deviation of a normal kernel around each value, in its unit, at most one bin: the mass is
    then a smooth function of the values. The kernel is integrated over each bin (differences of erf), so that
    it sums to 1 whatever the width. weights: share of each value, which sum to 1 (default: 1/n each).
    """
    if not 0.0 <= smear <= grid.width:
        raise ValueError(f"smear = {smear:g}: must be from 0 to the width of a bin, {grid.width:g}")
    x = jnp.asarray(values)
    if weights is None:
        weights = jnp.full(x.shape, 1.0 / x.shape[0], x.dtype)
    if smear:
        return jnp.asarray(weights) @ _kernel_mass(x, grid, smear)
    return jnp.zeros(grid.size, x.dtype).at[_index(x, grid)].add(weights)


def mass_of_each(values: Float[AnyArray, " n"], grid: Bins, smear: float = 0.0) -> Float[Array, "n size"]:
    """The histogram of each value alone: what becomes a distribution for every residue in the mean."""
    return jax.vmap(lambda value: mass(value[None], grid, smear))(jnp.asarray(values))


def density(histogram: np.ndarray, grid: Bins) -> np.ndarray:
    """Inner bins as probability density, (..., count), per unit of the coordinate; overflow not included."""
    return histogram[..., 1:-1] / grid.width


def _index(x: Array, grid: Bins) -> Array:
    scaled = jnp.floor((x - grid.low) / grid.width)
    if grid.periodic:
        # mod of the whole number, not of the value: rounding may put a value just below `low` on `high`
        return jnp.mod(scaled, grid.count).astype(jnp.int32) + 1
    inner = jnp.where(x == grid.high, grid.count - 1, scaled)
    return (jnp.clip(inner, -1, grid.count) + 1).astype(jnp.int32)


def _kernel_mass(x: Array, grid: Bins, smear: float) -> Array:
    """(n, size): mass of a normal kernel around each value between the edges; the tails are the overflow."""
    edges = jnp.asarray(grid.edges, x.dtype)
    if not grid.periodic:
        below = ndtr((edges - x[:, None]) / smear)
        return jnp.diff(below, axis=1, prepend=0.0, append=1.0)
    period = grid.high - grid.low
    wrapped = grid.low + jnp.mod(x - grid.low, period)
    # a kernel of at most one bin reaches no further than the neighbouring images
    images = wrapped[:, None, None] + period * jnp.arange(-1.0, 2.0, dtype=x.dtype)[:, None]
    inner = jnp.sum(jnp.diff(ndtr((edges - images) / smear), axis=-1), axis=1)
    return jnp.pad(inner, ((0, 0), (1, 1)))
