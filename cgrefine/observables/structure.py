"""What an observable is, how it is averaged over frames, and those of the whole chain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine import geometry
from cgrefine.compiling import ONCE
from cgrefine.geometry import AnyArray
from cgrefine.observables.histogram import Bins, mass

CHUNK_FRAMES = 64

BOND_A = 3.8
"""Length of a virtual Cα-Cα bond; n of them stretched out bound every size of the chain."""

Measure = Callable[[Array], Array]
"""One number of a frame: (positions (n, 3) Å) → ()."""


def _as_it_is(mean: np.ndarray) -> np.ndarray:
    return mean


@dataclass(frozen=True)
class Observable:
    """A quantity of one frame whose ensemble mean is compared: name, unit of its coordinate, shape.

    per_frame(positions (n, 3) Å) → array of `shape`, pure and traceable. grid: bins, when it is a histogram
    (in its last axis). of_mean: what is compared, as a numpy function of the ensemble mean, where it is not
    the mean itself: an RMSF of two moments, a g(r) of a histogram.
    """

    name: str
    unit: str
    shape: tuple[int, ...]
    per_frame: Callable[[Array], Array]
    grid: Bins | None = None
    of_mean: Callable[[np.ndarray], np.ndarray] = _as_it_is

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
    for part in _chunks(positions):
        total += np.asarray(observable.of_frames(jnp.asarray(_filled(part))), np.float64)[: len(part)].sum(0)
    return total / len(positions)


class Averages(NamedTuple):
    """means: of each observable, float64, in their order. series: name → (f,), the value of each frame."""

    means: list[np.ndarray]
    series: dict[str, np.ndarray]


def averager(
    observables: Sequence[Observable], measures: Mapping[str, Measure]
) -> Callable[[np.ndarray], Averages]:
    """A function of frames (f, n, 3) Å that averages all observables and lists all measures, in one program.

    One compilation a chain instead of one an observable, and distances that several of them need are
    computed once. The function raises ValueError without frames.
    """

    @partial(jax.jit, compiler_options=ONCE)
    def totals(positions: Array, good: Array) -> tuple[list[Array], dict[str, Array]]:
        def total(observable: Observable) -> Array:
            values = jax.vmap(observable.per_frame)(positions)
            return jnp.tensordot(good.astype(values.dtype), values, axes=1)

        return [total(o) for o in observables], {k: jax.vmap(m)(positions) for k, m in measures.items()}

    def average(positions: np.ndarray) -> Averages:
        if len(positions) == 0:
            raise ValueError("no frames to average")
        sums = [np.zeros(o.shape) for o in observables]
        series: dict[str, list[np.ndarray]] = {name: [] for name in measures}
        for part in _chunks(positions):
            good = np.arange(CHUNK_FRAMES) < len(part)
            found, values = totals(jnp.asarray(_filled(part)), jnp.asarray(good))
            for total, more in zip(sums, found, strict=True):
                total += np.asarray(more, np.float64)
            for name, value in values.items():
                series[name].append(np.asarray(value, np.float64)[: len(part)])
        means = [total / len(positions) for total in sums]
        return Averages(means, {name: np.concatenate(parts) for name, parts in series.items()})

    return average


def valuer(observables: Sequence[Observable]) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A function of frames (f, n, 3) Å that gives the values of each frame, (f, *shape) float64 of each
    observable, in one program."""

    @partial(jax.jit, compiler_options=ONCE)
    def of_frames(positions: Array) -> list[Array]:
        return [jax.vmap(o.per_frame)(positions) for o in observables]

    def values(positions: np.ndarray) -> list[np.ndarray]:
        found = [np.zeros((len(positions), *o.shape)) for o in observables]
        for start in range(0, len(positions), CHUNK_FRAMES):
            part = positions[start : start + CHUNK_FRAMES]
            for rows, value in zip(found, of_frames(jnp.asarray(_filled(part))), strict=True):
                rows[start : start + len(part)] = np.asarray(value)[: len(part)]
        return found

    return values


def _chunks(positions: np.ndarray) -> list[np.ndarray]:
    return [positions[start : start + CHUNK_FRAMES] for start in range(0, len(positions), CHUNK_FRAMES)]


def _filled(part: np.ndarray) -> np.ndarray:
    """The frames and copies of the last one up to CHUNK_FRAMES, so that one compiled shape serves all."""
    short = CHUNK_FRAMES - len(part)
    return np.concatenate([part, np.repeat(part[-1:], short, axis=0)]) if short else part


def radius_of_gyration(positions: Float[AnyArray, "beads 3"]) -> Float[Array, ""]:
    """Root mean square distance of the beads from their mean position, Å (beads of equal weight)."""
    centred = positions - jnp.mean(positions, axis=0)
    return jnp.sqrt(jnp.mean(jnp.sum(centred**2, axis=-1)))


def end_to_end(positions: Float[AnyArray, "beads 3"]) -> Float[Array, ""]:
    """Distance between the first and the last bead, Å."""
    return geometry.safe_norm(positions[-1] - positions[0])


def scalar_histogram(name: str, unit: str, measure: Measure, grid: Bins, smear: float = 0.0) -> Observable:
    """The distribution of one number a frame. smear: see `histogram.mass`."""
    return Observable(name, unit, (grid.size,), partial(_one_mass, measure, grid, smear), grid)


def _one_mass(measure: Measure, grid: Bins, smear: float, positions: Array) -> Array:
    return mass(measure(positions)[None], grid, smear)
