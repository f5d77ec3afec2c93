"""Axes that move with the chain, and the surroundings of a bead seen in them (numpy, host side).

A mean force depends on shape alone and turns with the molecule. In axes fixed to three bonded beads both the
shape and the force are numbers that can be compared between frames, without any superposition.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

AXES = ("along the chain", "into the bend", "normal to the bend")
"""t, n, b of `local_axes`."""

STRAIGHT_A = 1.0e-3
"""Three beads whose middle one is nearer than this to the line of the others span no plane."""

ENDS = 3
"""Residues at either end of a chain that count as positions of their own."""

POSITIONS = (
    *(f"N-terminal {k}" for k in range(1, ENDS + 1)), "interior",
    *(f"C-terminal {k}" for k in range(ENDS, 0, -1)),
)  # fmt: skip


def chain_ends(n_beads: int, breaks: Sequence[int]) -> Int[np.ndarray, "beads 2"]:
    """First bead of the piece of chain that each bead is in, and the bead after its last one."""
    edges = np.array([0, *breaks, n_beads])
    return np.repeat(np.column_stack([edges[:-1], edges[1:]]), np.diff(edges), axis=0)


def chain_positions(n_beads: int, breaks: Sequence[int]) -> Int[np.ndarray, " beads"]:
    """Index into POSITIONS of each bead; beads next to a chain break are ends too.

    In a piece of fewer than 2·ENDS residues each bead counts from the nearer end, from the N-terminus in
    the middle.
    """
    first, last = chain_ends(n_beads, breaks).T
    from_n, from_c = np.arange(n_beads) - first, last - 1 - np.arange(n_beads)
    c_end = np.where(from_c < ENDS, 2 * ENDS - from_c, ENDS)
    return np.where((from_n < ENDS) & (from_n <= from_c), from_n, c_end)


def triads(n_beads: int, breaks: Sequence[int]) -> Int[np.ndarray, "beads 3"]:
    """Three consecutive bonded beads of each bead: itself in the middle, or the three next to it at an end.

    -1 in pieces of fewer than three beads.
    """
    first, last = chain_ends(n_beads, breaks).T
    centre = np.clip(np.arange(n_beads), first + 1, last - 2)
    found = centre[:, None] + np.array([-1, 0, 1])
    return np.where((last - first >= 3)[:, None], found, -1)


def local_axes(
    x: Float[np.ndarray, "... beads 3"], triad: Int[np.ndarray, "beads 3"]
) -> tuple[Float[np.ndarray, "... beads 3 3"], Bool[np.ndarray, "... beads"]]:
    """Unit vectors t, n, b (rows) of the triad i-j-k of each bead, and whether there are any.

    t: from i to k. n: from j to the line through i and k, perpendicular to it. b = t × n, so that the axes
    of a mirror image are not the mirrored axes. Zeros without a triad, and where it is straight.
    """
    i, j, k = (x[..., triad[:, c], :] for c in range(3))
    along = k - i
    length = np.linalg.norm(along, axis=-1, keepdims=True)
    t = along / np.where(length > 0.0, length, 1.0)
    inward = 0.5 * (i + k) - j
    inward = inward - (inward * t).sum(-1, keepdims=True) * t
    height = np.linalg.norm(inward, axis=-1, keepdims=True)
    n = inward / np.where(height > 0.0, height, 1.0)
    known = (triad[:, 0] >= 0) & (height[..., 0] > STRAIGHT_A)
    axes = np.stack([t, n, np.cross(t, n)], axis=-2)
    return np.where(known[..., None, None], axes, 0.0), known


def surroundings(
    x: Float[np.ndarray, "frames beads 3"],
    axes: Float[np.ndarray, "frames 3 3"],
    bead: int,
    near: Sequence[int],
) -> Float[np.ndarray, "frames n"]:
    """Positions of the beads `near` relative to `bead`, in its local axes: the shape of that piece, Å."""
    relative = x[:, list(near)] - x[:, bead, None]
    return np.einsum("fac,fmc->fma", axes, relative).reshape(len(x), -1)
