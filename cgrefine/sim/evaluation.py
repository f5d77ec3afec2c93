"""Energies, forces and curvature of many frames, in float64 whatever the default.

Whatever is evaluated in the same room (see `sim.rooms`), frames of any number and of any molecule, shares one
compilation.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine import energy
from cgrefine.energy import BeadEnergies
from cgrefine.neighbors import Neighbors
from cgrefine.sim import rooms
from cgrefine.sim.kernels import in_dtype
from cgrefine.sim.rooms import Room, filled
from cgrefine.system import System, Topology

BATCH_BEADS = 2000
"""Beads that are evaluated at a time; one frame at least."""

PROBES = 2
"""Random vectors a frame of the estimate of the Laplacian."""

DISPLACEMENT_A = 1e-3
"""Of each coordinate, in the difference of forces that gives the curvature, whose error is of its square."""


def room(pieces: Sequence[tuple[Topology, np.ndarray]], cutoff_A: float) -> Room:
    """Room for frames (f, n, 3) Å of these molecules, about BATCH_BEADS at a time: see `rooms.room`."""
    return rooms.room(pieces, cutoff_A, BATCH_BEADS)


def energies(
    model: BeadEnergies,
    params: Any,
    topology: Topology,
    frames: np.ndarray,
    cutoff_A: float,
    within: Room | None = None,
) -> np.ndarray:
    """Energy of each bead of each frame (f, n, 3) Å: (f, n) kcal/mol. within: by default their own."""
    found = _by_frame(_energies, model, params, topology, frames, cutoff_A, within)
    return found[..., 0]


def energies_and_forces(
    model: BeadEnergies,
    params: Any,
    topology: Topology,
    frames: np.ndarray,
    cutoff_A: float,
    within: Room | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Energy of each bead (f, n) kcal/mol, and forces (f, n, 3) kcal/mol/Å, of frames (f, n, 3) Å."""
    found = _by_frame(_forces, model, params, topology, frames, cutoff_A, within)
    return found[..., 0], found[..., 1:]


def squared_forces_and_laplacian(
    model: BeadEnergies,
    params: Any,
    topology: Topology,
    frames: np.ndarray,
    cutoff_A: float,
    seed: int,
    within: Room | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """|∇U|² (f,), (kcal/mol/Å)², and an unbiased estimate of ∇²U (f,), kcal/mol/Å², of frames (f, n, 3) Å.

    ∇²U = E[v·Hv] over vectors v of independent random signs, PROBES a frame. The product with the Hessian H
    is a central difference of the forces: the program that gives the forces gives the curvature.
    Hutchinson, Commun. Stat. Simul. Comput. 19, 433 (1990).
    """
    x = np.asarray(frames, np.float64)
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), (PROBES, *x.shape))
    moved = [x, *(x + h * v for v in signs for h in (DISPLACEMENT_A, -DISPLACEMENT_A))]
    _, forces = energies_and_forces(model, params, topology, np.concatenate(moved), cutoff_A, within)
    at, *pairs = np.split(forces, len(moved))
    slopes = [(pairs[2 * k + 1] - pairs[2 * k]) / (2.0 * DISPLACEMENT_A) for k in range(PROBES)]
    laplacian = np.mean([(v * s).sum(axis=(1, 2)) for v, s in zip(signs, slopes, strict=True)], axis=0)
    return (at**2).sum(axis=(1, 2)), laplacian


def _energies(model: BeadEnergies, params: Any, x: Array, system: System, edges: Neighbors) -> Array:
    return model(params, x, system, edges)[:, None]


def _forces(model: BeadEnergies, params: Any, x: Array, system: System, edges: Neighbors) -> Array:
    u, f = energy.bead_energies_and_forces(model, params, x, system, edges)
    return jnp.concatenate([u[:, None], f], axis=1)


@partial(jax.jit, static_argnums=(0, 1))
def _evaluated(quantity, model, params, x, system, edges):
    return quantity(model, params, x, system, edges)


def _by_frame(quantity, model, params, topology, frames, cutoff_A, within) -> np.ndarray:
    """Rows of beads of each frame, (f, n, columns)."""
    x, n = np.asarray(frames, np.float64), topology.n_beads
    if within is None:
        within = rooms.own_room(topology, x, cutoff_A, BATCH_BEADS)
    found = []
    with jax.enable_x64(True):
        params = in_dtype(params, jnp.float64)
        for full in filled(topology, x, cutoff_A, within):
            system = in_dtype(full.system, jnp.float64)
            rows = np.asarray(_evaluated(quantity, model, params, full.positions, system, full.edges))
            found.append(rows[: full.own * n].reshape(full.own, n, -1))
    return np.concatenate(found)
