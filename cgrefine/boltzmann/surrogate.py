"""The reverse pass of the Boltzmann estimator: ∂/∂θ of Σ_s Σ_j a_sj u_j(x_s; θ) over any number of frames.

Frames of all proteins and temperatures fill packed graphs of one fixed size, one after the other, so that
there is one program and its memory does not grow with the frames. The gradients of these chunks are added, so
that the result does not depend on how the frames were divided. Frames without a coefficient are left out
before: what they hold reaches nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine import neighbors
from cgrefine.energy import BeadEnergies, Params
from cgrefine.neighbors import Neighbors
from cgrefine.system import Capacity, System, Topology, exact_capacity, pack

CHUNK_BEADS = 1024
"""Beads whose energies are differentiated at a time, on each device."""

EDGE_STEP = 256
"""Edges of a chunk are a multiple of this, so that similar ensembles share one program."""

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
) -> Params:
    """∂/∂θ of the surrogate of all ensembles together, shaped as `params` (numpy, in their precision).

    explicit: the observables whose coefficients stand in `Ensemble.explicit`: adds Σ_s p_s L'·∂g/∂θ.
    devices: local ones that share the chunks (default: all). Frames with coefficients that are all zero cost
    nothing. Raises ValueError when no frame has one, or such a frame has a position that is not finite.
    """
    used = [_with_coefficients(e) for e in ensembles]
    used = [e for e in used if len(e.positions)]
    if not used:
        raise ValueError("no frame has a coefficient: there is nothing to differentiate")
    there = jax.local_devices() if devices is None else devices
    held = [jax.device_put(params, device) for device in there]
    totals: list[Params] = [None] * len(there)
    for k, chunk in enumerate(_chunks(used, cutoff_A, chunk_beads)):
        d = k % len(there)
        found = _gradient(model, explicit, held[d], jax.device_put(chunk, there[d]))
        totals[d] = found if totals[d] is None else _added(totals[d], found)
    own = [jax.tree.map(np.asarray, total) for total in totals if total is not None]
    return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *own)


@partial(jax.jit, static_argnums=(0, 1))
def _gradient(model: BeadEnergies, explicit: Explicit | None, params: Params, chunk: Chunk) -> Params:
    def surrogate(theta: Params) -> Array:
        at = (theta, chunk.positions, chunk.system, chunk.edges)
        value = jnp.sum(chunk.coefficients * model(*at))
        return value if explicit is None else value + jnp.sum(chunk.explicit * explicit(*at))

    return jax.grad(surrogate)(params)


@jax.jit
def _added(total: Params, more: Params) -> Params:
    return jax.tree.map(jnp.add, total, more)


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


def _chunks(ensembles: Sequence[Ensemble], cutoff_A: float, chunk_beads: int) -> Iterator[Chunk]:
    """Frames in order, as many as fit each time; all chunks have the shapes that hold the fullest of them."""
    rows = [(e, f) for e in range(len(ensembles)) for f in range(len(ensembles[e].positions))]
    room = max(chunk_beads, max(e.topology.n_beads for e in ensembles))
    groups: list[list[tuple[int, int]]] = []
    filled = room
    for e, f in rows:
        n = ensembles[e].topology.n_beads
        if filled + n > room:
            groups.append([])
            filled = 0
        groups[-1].append((e, f))
        filled += n
    topologies = [[ensembles[e].topology for e, _ in group] for group in groups]
    capacity = Capacity(*(max(sizes) for sizes in zip(*map(exact_capacity, topologies), strict=True)))
    # counted before they are listed: the lists of all frames at once may not fit
    most = max(sum(_n_edges(ensembles[e].positions[f], cutoff_A) for e, f in group) for group in groups)
    edges = -(-most // EDGE_STEP) * EDGE_STEP
    stated = all(e.temperature_K is not None for e in ensembles)
    columns = max((0 if e.explicit is None else e.explicit.shape[1]) for e in ensembles)
    for group, members in zip(groups, topologies, strict=True):
        temperatures = [float(ensembles[e].temperature_K or 0.0) for e, _ in group] if stated else None
        system = pack(members, capacity, temperatures)
        yield _filled([(ensembles[e], f) for e, f in group], system, edges, columns, cutoff_A)


def _filled(
    frames: Sequence[tuple[Ensemble, int]], system: System, edges: int, columns: int, cutoff_A: float
) -> Chunk:
    dtype = frames[0][0].positions.dtype
    positions = np.zeros((len(system.species), 3), dtype)
    coefficients = np.zeros(len(system.species), dtype)
    explicit = np.zeros((len(system.graph_mask), columns), dtype)
    senders, receivers = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    begin = 0
    for graph, (ensemble, f) in enumerate(frames):
        end = begin + ensemble.topology.n_beads
        positions[begin:end] = ensemble.positions[f]
        coefficients[begin:end] = ensemble.coefficients[f]
        if ensemble.explicit is not None:
            explicit[graph, : ensemble.explicit.shape[1]] = ensemble.explicit[f]
        if cutoff_A > 0.0:
            i, j = neighbors.frame_edges(ensemble.positions[f], cutoff_A)
            senders.append(i + np.int32(begin))
            receivers.append(j + np.int32(begin))
        begin = end
    listed = neighbors.padded(np.concatenate(senders), np.concatenate(receivers), edges)
    return Chunk(jnp.asarray(positions), system, listed, jnp.asarray(coefficients), jnp.asarray(explicit))


def _n_edges(positions: np.ndarray, cutoff_A: float) -> int:
    return len(neighbors.frame_edges(positions, cutoff_A)[0]) if cutoff_A > 0.0 else 0
