"""The network as the program that chemtrain-deploy runs in LAMMPS: one domain with its ghosts, any sizes.

    positions f32 (n_atoms, 3), species i32 (n_atoms,) from 0, n_local i32 (), n_ghost i32 (), newton i1 (),
    senders i32 (max_buffers,), receivers i32 (max_buffers,), buffer i1 (max_edges,)
        -> forces f32 (n_atoms, 3), energy f32 (), needed_edges i32 (), n_within_cutoff i32 ()

Å, kcal/mol. Rows are local beads, ghosts, padding. The pairs are those of the list of LAMMPS: longer than
the cutoff by the skin, padded with the index n_atoms, with the bits of special neighbours on them (j ^ which
<< 30).
    newton on:  each pair in both directions; forces = -dE_local/dx in all rows, which LAMMPS adds up over
                domains.
    newton off: each pair once; forces = -d(E_local + E_ghosts)/dx, of which only local rows are complete.
The energy is that of the local beads, each whole. Of `buffer` only the length counts: it is the room for the
edges that energy and forces depend on. Of those there are needed_edges; where they do not fit, energy and
forces are NaN, the host makes the buffer longer and calls again.

A host has to communicate ghosts of (M, 2M) cutoffs with newton on, off, for a network of M hops: the force
on a bead is a derivative of energies M hops around it, which depend on beads another M hops around them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from cgrefine import geometry
from cgrefine.energy import NetworkTerm
from cgrefine.errors import InputError
from cgrefine.export.portable import PLATFORM, artifact_of, exported, text_of
from cgrefine.export.program import cast_params
from cgrefine.export.ptb import Container, decode

TARGET = "1.7.0"
"""StableHLO that the connector reads: that of jaxlib 0.4.35, whose newest is 1.7.8."""
NEIGHBOR_MASK = 0x3FFFFFFF
"""Bits of an index in a LAMMPS list; the two above say that the pair is a special one."""
SIZES = "n_atoms, max_buffers, max_edges"
"""Symbols of the sizes, in the order in which they appear among the arguments."""


class DomainValues(NamedTuple):
    """forces (n_atoms, 3) kcal/mol/Å, energy () kcal/mol, needed_edges (), n_within_cutoff ()."""

    forces: np.ndarray
    energy: np.ndarray
    needed_edges: np.ndarray
    n_within_cutoff: np.ndarray


def neighbour_order(term: NetworkTerm) -> tuple[int, int]:
    """Cutoffs of ghosts that a domain needs with newton on, and off."""
    return term.hops, 2 * term.hops


def container(term: NetworkTerm, params: Any) -> Container:
    """The network with its parameters as float32 constants, as a container.

    Raises ValueError when it uses an operation that consumers of this format cannot read, and when it is
    conditioned on temperature.
    """
    if term.reference_K is not None:
        raise ValueError(
            f"network {term.name!r} is conditioned on temperature: fix one before it is exported"
        )
    try:
        text = text_of(exported(_program(term, params), _arguments()))
        artifact_of(text, TARGET)
    except ValueError as error:
        raise ValueError(f"network {term.name!r} for chemtrain-deploy: {error}") from error
    return Container(text, term.cutoff_A, neighbour_order(term))


@dataclass(frozen=True)
class DomainProgram:
    """A container that was read, called as by its host; compiled again for each new triple of sizes."""

    container: Container
    call: Callable[..., Any]

    def __call__(
        self,
        positions: np.ndarray,
        species: np.ndarray,
        n_local: int,
        n_ghost: int,
        newton: bool,
        senders: np.ndarray,
        receivers: np.ndarray,
        max_edges: int,
    ) -> DomainValues:
        """Values of one domain, arguments as in the module's docstring."""
        with jax.enable_x64(False), jax.default_device(jax.devices(PLATFORM)[0]):
            values = self.call(
                np.asarray(positions, np.float32),
                np.asarray(species, np.int32),
                np.int32(n_local),
                np.int32(n_ghost),
                np.bool_(newton),
                np.asarray(senders, np.int32),
                np.asarray(receivers, np.int32),
                np.zeros(max_edges, bool),
            )
            return DomainValues(*(np.asarray(v) for v in values))


def load(data: bytes) -> DomainProgram:
    """Read the bytes of a `.ptb` file. InputError when they are none, or hold no StableHLO."""
    read = decode(data)
    try:
        artifact = artifact_of(read.text, TARGET)
    except ValueError as error:
        raise InputError(f"the .ptb holds no StableHLO program: {error}") from error
    program = replace(exported(_stand_in, _arguments()), mlir_module_serialized=artifact)
    return DomainProgram(read, jax.jit(program.call))


def _program(term: NetworkTerm, params: Any) -> Callable[..., tuple[jax.Array, ...]]:
    order = neighbour_order(term)

    def program(positions, species, n_local, n_ghost, newton, senders, receivers, buffer):
        rows = jnp.arange(positions.shape[0], dtype=jnp.int32)
        local, real = rows < n_local, rows < n_local + n_ghost
        i, j = senders & NEIGHBOR_MASK, receivers & NEIGHBOR_MASK
        present = (i < n_local + n_ghost) & (j < n_local + n_ghost) & (i != j)
        i, j = jnp.where(present, i, 0), jnp.where(present, j, 0)
        vectors = geometry.displacements(positions, i, j, present)
        within = present & (jnp.sum(vectors * vectors, axis=-1) < term.cutoff_A**2)

        # With newton off the list has each pair once: the other direction is the second half.
        first, second = jnp.concatenate([i, j]), jnp.concatenate([j, i])
        known = jnp.concatenate([within, within & ~newton])
        reached = _reached(local, first, second, known, newton, order)
        needed = known & reached[first]
        index, edge_mask, count = _compact(needed, buffer.shape[0])
        first, second = jnp.where(edge_mask, first[index], 0), jnp.where(edge_mask, second[index], 0)

        def acting(x):
            edges = geometry.displacements(x, first, second, edge_mask)
            constants = cast_params(params, jnp.float32)
            energy = term.edge_energy(constants, edges, species, first, second, edge_mask)
            own = jnp.sum(jnp.where(local, energy, 0.0))
            return jnp.where(newton, own, jnp.sum(jnp.where(real, energy, 0.0))), own

        (_, energy), gradient = jax.value_and_grad(acting, has_aux=True)(positions)
        fits = count <= buffer.shape[0]
        forces = jnp.where(fits & real[:, None], -gradient, jnp.where(fits, 0.0, jnp.nan))
        return forces, jnp.where(fits, energy, jnp.nan), count, jnp.sum(within, dtype=jnp.int32)

    return program


def _reached(
    local: jax.Array,
    first: jax.Array,
    second: jax.Array,
    known: jax.Array,
    newton: jax.Array,
    order: tuple[int, int],
) -> jax.Array:
    """Beads at which edges start that count: local ones, and those up to order - 1 edges away from them."""
    reached = local
    for step in range(1, order[1]):
        further = reached.at[second].max(known & reached[first])
        reached = jnp.where(newton & (step >= order[0]), reached, further)
    return reached


def _compact(chosen: jax.Array, room: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where the chosen ones stand, as far as there is room: indices (room,), which of these count (room,),
    and how many are chosen ()."""
    # a sort: a running sum over a size that is not known yet is an operation that few consumers have
    last = chosen.shape[0] - 1
    numbers = jnp.arange(chosen.shape[0], dtype=jnp.int32)
    index = jnp.sort(jnp.where(chosen, numbers, last))[:room]
    count = jnp.sum(chosen, dtype=jnp.int32)
    return index, jnp.arange(room, dtype=jnp.int32) < count, count


def _stand_in(positions, species, n_local, n_ghost, newton, senders, receivers, buffer):
    return positions, jnp.float32(0.0), n_local, n_local


def _arguments() -> list[jax.ShapeDtypeStruct]:
    """Arguments whose sizes are filled in by the host; edges cannot exceed twice the list."""
    atoms, buffers, edges = export.symbolic_shape(SIZES, constraints=["max_edges <= 2*max_buffers"])
    shapes = [
        ((atoms, 3), np.float32), ((atoms,), np.int32), ((), np.int32), ((), np.int32), ((), np.bool_),
        ((buffers,), np.int32), ((buffers,), np.int32), ((edges,), np.bool_),
    ]  # fmt: skip
    return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
