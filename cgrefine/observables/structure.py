"""What an observable is, and those of the whole chain: radius of gyration, end-to-end distance."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine import geometry
from cgrefine.geometry import AnyArray
from cgrefine.observables.histogram import Bins, mass

CHUNK_FRAMES = 64


@dataclass(frozen=True)
class Observable:
    """A quantity of one frame whose ensemble mean is compared: name, unit of its coordinate, shape.

    per_frame(positions (n, 3) Å) → array of `shape`, pure and traceable. grid: bins, when it is a histogram.
    """

    name: str
    unit: str
    shape: tuple[int, ...]
    per_frame: Callable[[Array], Array]
    grid: Bins | None = None

    @cached_property
    def of_frames(self) -> Callable[[Array], Array]:
        """per_frame over frames (f, n, 3), compiled once for all groups that are averaged."""
        return jax.jit(jax.vmap(self.per_frame))


def frame_means(
    observable: Observable, positions: Float[np.ndarray, "frames beads 3"]
) -> Float[np.ndarray, "..."]:
    """Mean of the observable over frames, shape of the observable, float64; chunked, any number of frames.

    Raises ValueError without frames.
    """
    if len(positions) == 0:
        raise ValueError(f"{observable.name}: no frames to average")
    total = np.zeros(observable.shape)
    for start in range(0, len(positions), CHUNK_FRAMES):
        part = positions[start : start + CHUNK_FRAMES]
        short = CHUNK_FRAMES - len(part)
        filled = np.concatenate([part, np.repeat(part[-1:], short, axis=0)]) if short else part
        total += np.asarray(observable.of_frames(jnp.asarray(filled)), np.float64)[: len(part)].sum(0)
    return total / len(positions)


def radius_of_gyration(positions: Float[AnyArray, "beads 3"]) -> Float[Array, ""]:
    """Root mean square distance of the beads from their mean position, Å (beads of equal weight)."""
    centred = positions - jnp.mean(positions, axis=0)
    return jnp.sqrt(jnp.mean(jnp.sum(centred**2, axis=-1)))


def end_to_end(positions: Float[AnyArray, "beads 3"]) -> Float[Array, ""]:
    """Distance between the first and the last bead, Å."""
    return geometry.safe_norm(positions[-1] - positions[0])


def scalar_histogram(name: str, unit: str, measure: Callable[[Array], Array], grid: Bins) -> Observable:
    """The distribution of one number a frame."""
    return Observable(name, unit, (grid.size,), partial(_one_mass, measure, grid), grid)


def _one_mass(measure: Callable[[Array], Array], grid: Bins, positions: Array) -> Array:
    return mass(measure(positions)[None], grid)
