"""What the forces of one chain read."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from cgrefine.dense.series import Series
from cgrefine.dense.tables import Curves


class Chain(NamedTuple):
    """What the forces of one chain of L beads need: made by `forces.dense`, an argument of jitted functions.

    bonded: Curves of "bond" and "angle", those that there are, and of "dihedral" unless all of its curves
    are short Fourier series: then they are in dihedral.
    pairs: for each pair term its constants (or parameters), zero where a pair does not act;
    acts: (L, L) of 0 and 1 for each; species (L,) int32.
    """

    bonded: dict[str, Curves]
    dihedral: Series | None
    pairs: tuple[Any, ...]
    acts: tuple[Array | np.ndarray, ...]
    species: Array | np.ndarray
