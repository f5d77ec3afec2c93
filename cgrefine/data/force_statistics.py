"""Size of forces by residue type, summed over blocks of frames: the first thing to look at in a data set."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class ForceSums(NamedTuple):
    """Sums over frames of one kind (residue type) each, all (kinds,) float64; kcal/mol/Å.

    count: vectors; norm: Σ |F|; square: Σ |F|²; largest: max |F|.
    """

    count: np.ndarray
    norm: np.ndarray
    square: np.ndarray
    largest: np.ndarray


class ForceSize(NamedTuple):
    """Of the vectors of one kind: their number, mean |F|, max |F|, and root mean square of a component."""

    count: int
    mean_norm: float
    max_norm: float
    rms_component: float


def sums_init(n_kinds: int) -> ForceSums:
    """No frame seen yet."""
    return ForceSums(*(np.zeros(n_kinds) for _ in ForceSums._fields))


def sums_step(
    sums: ForceSums, forces: Float[np.ndarray, "frames n 3"], kind: Int[np.ndarray, " n"]
) -> ForceSums:
    """Add a block. kind: of each atom or bead, from 0; negative ones are left out."""
    n_kinds, chosen = len(sums.count), kind >= 0
    square = np.einsum("fnc,fnc->fn", forces, forces, dtype=np.float64)[:, chosen]
    norm, of = np.sqrt(square), kind[chosen]
    largest = sums.largest.copy()
    np.maximum.at(largest, of, norm.max(axis=0, initial=0.0))
    return ForceSums(
        sums.count + len(forces) * np.bincount(of, minlength=n_kinds),
        sums.norm + np.bincount(of, norm.sum(axis=0), n_kinds),
        sums.square + np.bincount(of, square.sum(axis=0), n_kinds),
        largest,
    )


def sums_add(one: ForceSums, other: ForceSums) -> ForceSums:
    """Sums over the frames of both."""
    return ForceSums(
        one.count + other.count,
        one.norm + other.norm,
        one.square + other.square,
        np.maximum(one.largest, other.largest),
    )


def size_of(sums: ForceSums, kind: int | None = None) -> ForceSize:
    """Size of the forces of one kind, or of all of them; zeros where there are none."""
    chosen = slice(None) if kind is None else [kind]
    part = ForceSums(*(column[chosen] for column in sums))
    n = max(float(part.count.sum()), 1.0)
    return ForceSize(
        count=int(part.count.sum()),
        mean_norm=float(part.norm.sum() / n),
        max_norm=float(part.largest.max()),
        rms_component=float(np.sqrt(part.square.sum() / (3 * n))),
    )
