"""Energies and forces of a packed graph at given positions, with a list of neighbours that fits."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine import energy, neighbors
from cgrefine.energy import BeadEnergies
from cgrefine.neighbors import Candidates, Neighbors
from cgrefine.sim.langevin import Evaluation
from cgrefine.system import System

CAPACITY_STEP = 256
"""Edge buffers are multiples of this, so that similar graphs share one compilation."""


def forces_at(
    bead_energies: BeadEnergies,
    params: Any,
    system: System,
    positions: Float[Array | np.ndarray, "beads 3"],
    cutoff_A: float,
) -> np.ndarray:
    """Forces (n, 3) kcal/mol/Å; cutoff_A = 0: the energy needs no neighbours."""
    pairs = pairs_of(system, cutoff_A)
    room = room_for(np.asarray(positions), pairs, cutoff_A, headroom=1.0)
    return np.asarray(_evaluated(bead_energies, cutoff_A, room, params, positions, system, pairs).forces)


def evaluation(
    bead_energies: BeadEnergies,
    params: Any,
    positions: Float[Array, "beads 3"],
    system: System,
    pairs: Candidates,
    cutoff_A: float,
    room: int,
) -> Evaluation:
    """Energies and forces with a buffer of so many edges (traceable); overflow when they do not fit."""
    edges = edges_at(positions, pairs, cutoff_A, room)
    per_bead, forces = energy.bead_energies_and_forces(bead_energies, params, positions, system, edges)
    return Evaluation(per_bead, forces, jnp.asarray(edges.overflow))


def edges_at(positions: Float[Array, "beads 3"], pairs: Candidates, cutoff_A: float, room: int) -> Neighbors:
    """The list of neighbours in a buffer of so many edges (traceable); none when no neighbours are needed."""
    if cutoff_A > 0.0:
        return neighbors.update(positions, pairs, cutoff_A, room)
    none = np.zeros(0, np.int32)
    return neighbors.padded(none, none, 0)


def pairs_of(system: System, cutoff_A: float) -> Candidates:
    """All pairs within graphs, or none when no neighbours are needed."""
    none = np.zeros(0, np.int32)
    return neighbors.candidates(system) if cutoff_A > 0.0 else Candidates(none, none)


def room_for(
    positions: np.ndarray, pairs: Candidates, cutoff_A: float, headroom: float, least: int = 0
) -> int:
    """Edges of a buffer: headroom times those at these positions and at least so many, see `fitted`."""
    vectors = positions[pairs.receivers] - positions[pairs.senders]
    edges = headroom * int(((vectors**2).sum(-1) < cutoff_A**2).sum())
    return fitted(float(max(edges, least)), pairs)


def fitted(edges: float, pairs: Candidates) -> int:
    """Room for so many edges, one step at least, and never for more than there are pairs."""
    return min(max(rounded(edges), CAPACITY_STEP), len(pairs.senders))


def rounded(edges: float) -> int:
    """A number of edges up to the next multiple of CAPACITY_STEP."""
    return CAPACITY_STEP * math.ceil(edges / CAPACITY_STEP)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _evaluated(bead_energies, cutoff_A, room, params, positions, system, pairs) -> Evaluation:
    return evaluation(bead_energies, params, positions, system, pairs, cutoff_A, room)
