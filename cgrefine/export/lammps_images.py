"""Positions of a molecule in a periodic box, as the network and the reference see them: without a box.

LAMMPS wraps beads into the box and counts the images (`image` flags). With them undone each chain is whole,
but two chains that touch across a face of the box may stand in different images. Here each chain is moved by
whole boxes until every pair within the cutoff stands at its nearest image: energies, forces and virial of
the free molecule are then those of the periodic one. Where no such placing exists (a chain that meets its own
image, chains that form a ring through the box), `ImageError` says so.
"""

from typing import Any

import numpy as np

from cgrefine.errors import InputError


class ImageError(RuntimeError):
    """The molecule meets its own periodic image within the cutoff."""


def box_lengths(lmp: Any) -> np.ndarray:
    """Edges of the box (3,) Å, infinite where it is not periodic. InputError on a triclinic box."""
    if lmp.extract_setting("triclinic"):
        raise InputError("the box is triclinic: periodic runs with a network need an orthogonal box")
    low, high, *_, periodic, _ = lmp.extract_box()
    return np.where(periodic, np.asarray(high) - np.asarray(low), np.inf)


def check_box(lengths: np.ndarray, cutoff_A: float) -> None:
    """InputError when the cutoff is larger than half of a periodic edge: images would not be unique."""
    if 2.0 * cutoff_A > lengths.min():
        raise InputError(
            f"the cutoff of {cutoff_A:g} Å is larger than half of the periodic box of "
            f"{' x '.join(f'{edge:g}' for edge in lengths)} Å: use a larger box"
        )


def gathered_positions(lmp: Any, lengths: np.ndarray) -> np.ndarray:
    """All positions (n, 3) Å in bead order, periodic images undone. Collective over processes."""
    x = np.array(lmp.gather_atoms("x", 1, 3), dtype=np.float64).reshape(-1, 3)
    periodic = np.isfinite(lengths)
    if periodic.any():
        image = np.array(lmp.gather_atoms("image", 0, 3), dtype=np.float64).reshape(-1, 3)
        x += image * np.where(periodic, lengths, 0.0)
    return x


class Placing:
    """Moves whole chains to the images where they meet; remembers how, since that rarely changes.

    chains: (n,) number of the chain of each bead, from 0.
    """

    def __init__(self, chains: np.ndarray, cutoff_A: float) -> None:
        self._chains, self._cutoff_A = chains, cutoff_A
        self._boxes = np.zeros((int(chains.max()) + 1, 3))

    def __call__(self, positions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Positions (n, 3) Å of whole chains, placed. Raises ImageError where that is impossible."""
        edges = np.where(np.isfinite(lengths), lengths, 0.0)
        placed = positions + (self._boxes * edges)[self._chains]
        # Nothing that spans less than the box less the cutoff has an image within the cutoff. Not `any(>)`:
        # positions that are not finite pass, and the network says so.
        if not (np.ptp(placed, axis=0) + self._cutoff_A > lengths).any():
            return placed
        self._boxes += self._moves(placed, lengths, edges)
        return positions + (self._boxes * edges)[self._chains]

    def _moves(self, x: np.ndarray, lengths: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Boxes to move each chain by, (chains, 3)."""
        apart = x[:, None] - x[None]
        boxes = np.round(apart / lengths)
        i, j = np.nonzero(((apart - boxes * edges) ** 2).sum(-1) < self._cutoff_A**2)
        first, second, wanted = self._chains[i], self._chains[j], boxes[i, j]
        moves = np.zeros_like(self._boxes)
        found = np.zeros(len(moves), bool)
        for root in range(len(moves)):
            waiting = [] if found[root] else [root]
            found[root] = True
            while waiting:
                chain = waiting.pop()
                for k in np.flatnonzero((first == chain) & ~found[second]):
                    if not found[second[k]]:
                        found[second[k]] = True
                        moves[second[k]] = moves[chain] + wanted[k]
                        waiting.append(int(second[k]))
        if not np.array_equal(moves[second] - moves[first], wanted):
            raise ImageError(
                f"the molecule meets its own periodic image within {self._cutoff_A:g} Å: use a larger box"
            )
        return moves
