"""Energies, forces and curvature of many frames of one molecule, in float64 whatever the default.

Frames are graphs of one packed system, a fixed number at a time, so that all share one compilation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine import energy, neighbors
from cgrefine.energy import BeadEnergies
from cgrefine.neighbors import Neighbors
from cgrefine.sim.kernels import in_dtype
from cgrefine.sim.rollout import CAPACITY_STEP
from cgrefine.system import System, Topology, pack

BATCH_BEADS = 4000
"""Beads that are evaluated at a time; one frame at least."""

PROBES = 8
"""Random vectors a frame of the estimate of the Laplacian."""

PerBead = Callable[[BeadEnergies, Any, Array, System, Neighbors, Array], tuple[Array, ...]]
"""(bead_energies, params, positions (n, 3), system, neighbors, key) -> arrays with one row a bead."""


def energies(
    model: BeadEnergies, params: Any, topology: Topology, frames: np.ndarray, cutoff_A: float
) -> np.ndarray:
    """Energy of each bead of each frame (f, n, 3) Å: (f, n) kcal/mol."""
    return _by_frame(_energies, model, params, topology, frames, cutoff_A)[0]


def squared_forces_and_laplacian(
    model: BeadEnergies, params: Any, topology: Topology, frames: np.ndarray, cutoff_A: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """|∇U|² (f,), (kcal/mol/Å)², and an unbiased estimate of ∇²U (f,), kcal/mol/Å², of frames (f, n, 3) Å.

    ∇²U = E[v·Hv] over vectors v of independent random signs, PROBES a frame, H the Hessian.
    Hutchinson, Commun. Stat. Simul. Comput. 19, 433 (1990).
    """
    found = _by_frame(_curvature, model, params, topology, frames, cutoff_A, seed)
    return found[0].sum(axis=1), found[1].sum(axis=1)


def _energies(model, params, x, system, edges, key):
    del key
    return (model(params, x, system, edges),)


def _curvature(model, params, x, system, edges, key):
    def force(positions):
        return energy.forces(model, params, positions, system, edges)

    def probe(total, key):
        v = jax.random.rademacher(key, x.shape, x.dtype)
        return total - jnp.sum(v * jax.jvp(force, (x,), (v,))[1], axis=1), None

    none = jnp.zeros(x.shape[0], x.dtype)
    laplacian, _ = jax.lax.scan(probe, none, jax.random.split(key, PROBES))
    return jnp.sum(force(x) ** 2, axis=1), laplacian / PROBES


@partial(jax.jit, static_argnums=(0, 1))
def _evaluated(quantity, model, params, x, system, edges, key):
    return quantity(model, params, x, system, edges, key)


def _by_frame(
    quantity: PerBead,
    model: BeadEnergies,
    params: Any,
    topology: Topology,
    frames: np.ndarray,
    cutoff_A: float,
    seed: int = 0,
) -> tuple[np.ndarray, ...]:
    """Rows of beads of each frame, (f, n) each. Raises ValueError on positions that are not finite."""
    x = np.asarray(frames, np.float64)
    count, n = x.shape[:2]
    # a power of two where one batch holds all, so that counts that differ little share a compilation
    size = min(max(1, BATCH_BEADS // n), 1 << (count - 1).bit_length())
    batches = np.arange(-(-count // size) * size).reshape(-1, size) % count
    lists = [neighbors.frame_edges(frame, cutoff_A) if cutoff_A > 0.0 else _NO_EDGES for frame in x]
    most = max(sum(len(lists[f][0]) for f in batch) for batch in batches)
    capacity = -(-most // CAPACITY_STEP) * CAPACITY_STEP
    with jax.enable_x64(True):
        system, params = (in_dtype(tree, jnp.float64) for tree in (pack([topology] * size), params))
        keys = jax.random.split(jax.random.key(seed), len(batches))
        found = []
        for key, batch in zip(keys, batches, strict=True):
            edges = neighbors.padded(*_joined([lists[f] for f in batch], n), capacity)
            rows = _evaluated(quantity, model, params, x[batch].reshape(-1, 3), system, edges, key)
            found.append([np.asarray(values).reshape(size, n) for values in rows])
    return tuple(np.concatenate(parts)[:count] for parts in zip(*found, strict=True))


_NO_EDGES = (np.zeros(0, np.int32), np.zeros(0, np.int32))


def _joined(lists: list[tuple[np.ndarray, np.ndarray]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges of frames of n beads each, as those of one packed graph."""
    senders, receivers = (
        np.concatenate([ends[k] + n * f for f, ends in enumerate(lists)]).astype(np.int32) for k in (0, 1)
    )
    return senders, receivers
