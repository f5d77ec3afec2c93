"""The reverse pass of the Boltzmann estimator: ∂/∂θ of Σ_s Σ_j a_sj u_j(x_s; θ) over any number of frames.

Frames of all proteins and temperatures go through one room (`sim.rooms`), one after the other, so that there
is one program and its memory does not grow with the frames. The gradients of these chunks are added, so that
the result does not depend on how the frames were divided. Frames without a coefficient are left out before:
what they hold reaches nothing.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine.energy import BeadEnergies, Params
from cgrefine.neighbors import Neighbors
from cgrefine.sim import rooms
from cgrefine.sim.rooms import Filled, Room, filled
from cgrefine.system import System, Topology

CHUNK_BEADS = 1024
"""Beads whose energies are differentiated at a time, on each device."""

Explicit = Callable[[Params, Array, System, Neighbors], Array]
"""Observables that depend on the parameters themselves (an energy, a virial): (g, k), a row each graph."""


class Ensemble(NamedTuple):
    """Frames of one molecule with their coefficients, see `boltzmann.gradient`.

    positions (f, n, 3) Å. coefficients: (f,), or (f, n) for bead energies. temperature_K: stated for networks
    that are conditioned on it. explicit (f, k): p_s L' of observables that depend on the parameters.
    """

    topology: Topology
    positions: np.ndarray
    coefficients: np.ndarray
    temperature_K: float | None = None
    explicit: np.ndarray | None = None


class Chunk(NamedTuple):
    """A packed graph of frames. coefficients (n,): of bead energies, 0 on padding; explicit (g, k)."""

    positions: Array
    system: System
    edges: Neighbors
    coefficients: Array
    explicit: Array


def surrogate_gradient(
    model: BeadEnergies,
    params: Params,
    ensembles: Sequence[Ensemble],
    cutoff_A: float,
    explicit: Explicit | None = None,
    chunk_beads: int = CHUNK_BEADS,
    devices: Sequence[Any] | None = None,
    within: Room | None = None,
) -> Params:
    """∂/∂θ of the surrogate of all ensembles together, shaped as `params` (numpy, in their precision).

    explicit: the observables whose coefficients stand in `Ensemble.explicit`: adds Σ_s p_s L'·∂g/∂θ.
    devices: local ones that share the chunks (default: all). within: the room of a chunk, where several calls
    are to share a program (default: for these frames, about chunk_beads at a time). Frames with coefficients
    that are all zero cost nothing. Raises ValueError when no frame has one, or such a frame has a position
    that is not finite.
    """
    used = [_with_coefficients(e) for e in ensembles]
    used = [e for e in used if len(e.positions)]
    if not used:
        raise ValueError("no frame has a coefficient: there is nothing to differentiate")
    there = jax.local_devices() if devices is None else devices
    held = [jax.device_put(params, device) for device in there]
    if within is None:
        within = rooms.room([(e.topology, e.positions) for e in used], cutoff_A, chunk_beads)
    total: Params = None
    underway: deque[Params] = deque()
    for k, chunk in enumerate(chunks(used, cutoff_A, within)):
        d = k % len(there)
        underway.append(_gradient(model, explicit, held[d], jax.device_put(chunk, there[d])))
        if len(underway) > len(there):
            total = _added(total, underway.popleft())
    for found in underway:
        total = _added(total, found)
    return total


@partial(jax.jit, static_argnums=(0, 1))
def _gradient(model: BeadEnergies, explicit: Explicit | None, params: Params, chunk: Chunk) -> Params:
    def surrogate(theta: Params) -> Array:
        at = (theta, chunk.positions, chunk.system, chunk.edges)
        value = jnp.sum(chunk.coefficients * model(*at))
        return value if explicit is None else value + jnp.sum(chunk.explicit * explicit(*at))

    return jax.grad(surrogate)(params)


def _added(total: Params | None, more: Params) -> Params:
    """On the host and in the order of the chunks, so that the sum does not depend on the devices."""
    found = jax.tree.map(np.asarray, more)
    return found if total is None else jax.tree.map(np.add, total, found)


def _with_coefficients(ensemble: Ensemble) -> Ensemble:
    """Frames that have a coefficient. Raises ValueError when one holds a position that is not finite."""
    a = np.asarray(ensemble.coefficients)
    counted = a != 0.0 if a.ndim == 1 else np.any(a != 0.0, axis=1)
    if ensemble.explicit is not None:
        counted = counted | np.any(ensemble.explicit != 0.0, axis=1)
    positions = np.asarray(ensemble.positions)[counted]
    if not np.isfinite(positions).all():
        raise ValueError("a frame with a coefficient holds a position that is not finite")
    told = None if ensemble.explicit is None else ensemble.explicit[counted]
    return ensemble._replace(positions=positions, coefficients=a[counted], explicit=told)


def chunks(ensembles: Sequence[Ensemble], cutoff_A: float, within: Room) -> Iterator[Chunk]:
    """Frames of all ensembles in order, room by room."""
    columns = max((0 if e.explicit is None else e.explicit.shape[1]) for e in ensembles)
    for e in ensembles:
        for full in filled(e.topology, e.positions, cutoff_A, within, e.temperature_K):
            yield _chunk(e, full, within, columns)


def _chunk(ensemble: Ensemble, full: Filled, within: Room, columns: int) -> Chunk:
    """The coefficients of the frames that are new; those that only fill the room have none."""
    n, dtype, own = ensemble.topology.n_beads, ensemble.positions.dtype, full.chosen[: full.own]
    coefficients = np.zeros(within.beads, dtype)
    each = np.reshape(ensemble.coefficients[own], (full.own, -1))
    coefficients[: full.own * n] = np.broadcast_to(each, (full.own, n)).reshape(-1)
    explicit = np.zeros((within.frames, columns), dtype)
    if ensemble.explicit is not None:
        explicit[: full.own, : ensemble.explicit.shape[1]] = ensemble.explicit[own]
    arrays = (jnp.asarray(a) for a in (coefficients, explicit))
    return Chunk(jnp.asarray(full.positions), full.system, full.edges, *arrays)
