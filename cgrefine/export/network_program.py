"""A network's portable program, compiled for one molecule on this machine's CPU.

Everything that a call needs is compiled with the network, so that LAMMPS, which calls it at every step, pays
little more than for the network. Its list of edges has a skin, and is made again when beads have moved.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cgrefine.errors import InputError
from cgrefine.export.portable import PLATFORM, first_line
from cgrefine.export.program import traceable
from cgrefine.neighbors import frame_edges, padded

EDGE_HEADROOM = 1.25
"""Edges that there is room for, relative to those that did not fit."""
EDGE_ROUNDING = 64
SKIN_A = 2.0
"""Widest skin of a list of edges."""
NEARLY = 0.8
"""A list is made anew when a bead has moved so far: the square, relative to that of half the skin."""

logger = logging.getLogger(__name__)


class NetworkValues(NamedTuple):
    """energy: kcal/mol; forces (n, 3) float64, kcal/mol/Å; virial: six numbers, kcal/mol."""

    energy: float
    forces: np.ndarray
    virial: list[float]


def edge_room(n_beads: int, n_edges: int) -> int:
    """Edges to make room for where there are n_edges of n_beads: some more, at most n(n-1)."""
    some_more = EDGE_ROUNDING * int(np.ceil(EDGE_HEADROOM * n_edges / EDGE_ROUNDING))
    return max(1, min(some_more, n_beads * (n_beads - 1)))


class NetworkProgram:
    """The program for one molecule, called with positions (n, 3) in Å, float64, unwrapped.

    It is compiled for this machine's CPU at the first call, with room for the edges that are there then, and
    again where a frame has more: `compiled` is what was made last (`around`), with room for `n_edges`;
    `compilations` is how often it was made. Edges are found with a skin, as wide as the room allows, and
    serve until a bead has moved by half of it: those beyond the cutoff do not act (`energy.NetworkTerm`).
    `lists` counts them.
    """

    def __init__(self, artifact: bytes, species: np.ndarray, cutoff_A: float) -> None:
        self.cutoff_A = cutoff_A
        self.species = np.asarray(species, np.int32)
        self.n_edges = 0
        self.compilations = 0
        self.lists = 0
        self.compiled: Callable[..., jax.Array] | None = None
        self._artifact = artifact
        self._half_skin2 = -1.0
        self._moved2 = np.inf
        self._as_numbered = np.arange(len(self.species), dtype=np.int32)
        self._order = self._rows = np.zeros(0, np.int32)
        self._orders: jax.Array | None = None
        self._edges: jax.Array | None = None

    def of(self, species: np.ndarray) -> "NetworkProgram":
        """The program for a molecule of other residues, or of more or fewer."""
        return NetworkProgram(self._artifact, species, self.cutoff_A)

    def __call__(
        self, positions: Float[np.ndarray, "beads 3"], order: np.ndarray | None = None
    ) -> NetworkValues:
        """Energy, forces and virial. InputError when the program does not compile.

        order (n,): number of the bead in each row of positions and of forces, from 0 (default: as they are
        numbered). An array that was given before is not read again: another order needs another array.
        """
        order = self._as_numbered if order is None else order
        if order is not self._order:
            self._order, self._rows = order, np.argsort(order).astype(np.int32)
            self._orders = _on_device(np.stack([self._rows, np.asarray(order, np.int32)]))
        # A little before the skin is used up, so that few evaluations are made in vain.
        if not self._moved2 < NEARLY * self._half_skin2:
            self._list(positions[self._rows])
        values = self._evaluated(positions)
        # Not `>`: positions that are not finite must be listed anew, which says so.
        if not self._moved2 <= self._half_skin2:
            self._list(positions[self._rows])
            values = self._evaluated(positions)
        return values

    def arguments(self, positions: np.ndarray) -> tuple[Any, ...]:
        """Arguments of `compiled`: positions (n, 3) in the order and with the edges of the last call."""
        bits = np.ascontiguousarray(positions, np.float64).view(np.int32)
        return bits, self._orders, self._edges

    def _evaluated(self, positions: np.ndarray) -> NetworkValues:
        assert self.compiled is not None
        values = np.asarray(self.compiled(*self.arguments(positions)))
        forces, ((energy, self._moved2, _), first, last) = values[:-3], values[-3:].tolist()
        return NetworkValues(energy, forces, first + last)

    def _list(self, positions: Float[np.ndarray, "beads 3"]) -> None:
        """Edges within the cutoff and a skin; room is made first, if those within the cutoff need more."""
        senders, receivers = frame_edges(positions, self.cutoff_A + SKIN_A)
        lengths = np.linalg.norm(positions[receivers] - positions[senders], axis=1)
        needed = int(np.count_nonzero(lengths < self.cutoff_A))
        if needed > self.n_edges or self.compiled is None:
            self._compile(needed)
        reach_A = self.cutoff_A + SKIN_A
        if len(lengths) > self.n_edges:
            reach_A = max(self.cutoff_A, float(np.partition(lengths, self.n_edges)[self.n_edges]))
            near = lengths < reach_A
            senders, receivers = senders[near], receivers[near]
        edges = padded(senders, receivers, self.n_edges)
        bits = np.array(positions, np.float64).view(np.int32)
        self._edges = _on_device(np.concatenate([bits.ravel(), edges.senders, edges.receivers]))
        self._half_skin2 = (0.5 * (reach_A - self.cutoff_A)) ** 2
        self.lists += 1

    def _compile(self, n_edges: int) -> None:
        n_beads, room = len(self.species), edge_room(len(self.species), n_edges)
        if self.compiled is not None:
            logger.warning(
                "%d edges within %g Å and room for %d: the network is compiled again with room for %d",
                n_edges, self.cutoff_A, self.n_edges, room,
            )  # fmt: skip
        shapes = (n_beads, 6), (2, n_beads), (6 * n_beads + 2 * room,)
        with jax.enable_x64(True), jax.default_device(jax.devices(PLATFORM)[0]):
            whole = around(traceable(self._artifact, PLATFORM).call, self.species)
            words = [jax.ShapeDtypeStruct(shape, np.int32) for shape in shapes]
            try:
                self.compiled = jax.jit(whole).lower(*words).compile()
            except (ValueError, RuntimeError) as error:
                raise InputError(f"the exported network does not compile: {first_line(error)}") from error
        self.n_edges, self.compilations = room, self.compilations + 1


def around(program: Callable[..., Any], species: np.ndarray) -> Callable[..., jax.Array]:
    """All arithmetic of a call around the program, so that it is compiled with it.

    In a simulation the network leaves nothing of the interpreter in the caches: every operation that is not
    compiled costs some ten microseconds, and there would be eight. An argument costs as much where it is
    made, so there are few.

        x i32 (n, 6), orders i32 (2, n), edges i32 (6n + 2e,) -> f64 (n + 3, 3)

    x: the bits of positions in float64, which jax would not take as such; orders: the row of each bead, and
    the bead of each row; edges: the bits of the positions in the order of beads at which the edges were
    listed, their senders, their receivers, which are the same bead where there is no edge. The results:
    forces in the rows of x; energy, the largest squared displacement since then, 0; the virial. Positions
    are centred before they become float32, which keeps the virial of a molecule far from the origin;
    energies are summed in float64.
    """
    n_beads = len(species)

    def doubles(words):
        return jax.lax.bitcast_convert_type(words.reshape(n_beads, 3, 2), jnp.float64)

    def whole(x, orders, edges):
        rows, order = orders
        beads, at = doubles(x[rows]), doubles(edges[: 6 * n_beads])
        senders, receivers = edges[6 * n_beads :].reshape(2, -1)
        centred = beads - at.mean(axis=0)
        positions = centred.astype(jnp.float32)
        remainders = (centred - positions).astype(jnp.float32)
        energies, forces, virial = program(
            positions, remainders, species, senders, receivers, senders != receivers
        )
        moved2 = jnp.sum((beads - at) ** 2, axis=1).max()
        energy = energies.astype(jnp.float64).sum()
        rest = jnp.stack([energy, moved2, jnp.zeros_like(energy), *virial.astype(jnp.float64)])
        return jnp.concatenate([forces[order].astype(jnp.float64), rest.reshape(3, 3)])

    return whole


def _on_device(words: np.ndarray) -> jax.Array:
    """An array of int32, for the CPU."""
    return jax.device_put(words, jax.devices(PLATFORM)[0])
