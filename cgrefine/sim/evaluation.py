"""Energies, forces and curvature of many frames, in float64 whatever the default.

Frames are graphs of one packed system of fixed capacity, a `Room`: whatever is evaluated in the same room,
frames of any number and of any molecule, shares one compilation.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine import energy, neighbors
from cgrefine.energy import BeadEnergies
from cgrefine.neighbors import Neighbors
from cgrefine.sim.forces import rounded
from cgrefine.sim.kernels import in_dtype
from cgrefine.system import Capacity, System, Topology, pack

BATCH_BEADS = 2000
"""Beads that are evaluated at a time; one frame at least."""

PROBES = 2
"""Random vectors a frame of the estimate of the Laplacian."""

DISPLACEMENT_A = 1e-3
"""Of each coordinate, in the difference of forces that gives the curvature, whose error is of its square."""


class Room(NamedTuple):
    """What is evaluated at a time: so many beads, frames and edges at most."""

    beads: int
    frames: int
    edges: int


def room(pieces: Sequence[tuple[Topology, np.ndarray]], cutoff_A: float) -> Room:
    """Room for frames (f, n, 3) Å of these molecules, about BATCH_BEADS at a time.

    Molecules of one length fill it exactly. Edges cost most, so there are no more of them than the sparsest
    molecule needs: none are padding.
    """
    lengths = [topology.n_beads for topology, _ in pieces]
    frames = max(1, BATCH_BEADS // min(lengths))
    beads = max(frames * min(lengths), *lengths)
    per_bead = [np.mean([len(senders) for senders, _ in _edges(x, cutoff_A)]) / x.shape[1] for _, x in pieces]
    return Room(beads, frames, rounded(beads * float(min(per_bead))))


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
    """Rows of beads of each frame, (f, n, columns). Frames with more edges than the room has get more."""
    x = np.asarray(frames, np.float64)
    if within is None:
        within = room([(topology, x)], cutoff_A)
        within = within._replace(frames=min(within.frames, 1 << (len(x) - 1).bit_length()))
        within = within._replace(beads=within.frames * topology.n_beads)
    lists = _edges(x, cutoff_A)
    counts = np.array([len(senders) for senders, _ in lists])
    n, edges = topology.n_beads, max(within.edges, rounded(float(counts.max())))
    tuples = max(within.beads, 1)
    capacity = Capacity(within.beads, within.frames, tuples, tuples, tuples)
    found = []
    with jax.enable_x64(True):
        params = in_dtype(params, jnp.float64)
        for chosen, own in _batches(counts, min(within.frames, within.beads // n), edges):
            system = in_dtype(pack([topology] * len(chosen), capacity), jnp.float64)
            positions = np.zeros((within.beads, 3))
            positions[: len(chosen) * n] = x[chosen].reshape(-1, 3)
            near = neighbors.padded(*_joined([lists[f] for f in chosen], n), edges)
            rows = np.asarray(_evaluated(quantity, model, params, positions, system, near))
            found.append(rows[: own * n].reshape(own, n, -1))
    return np.concatenate(found)


def _batches(counts: np.ndarray, frames: int, edges: int) -> Iterator[tuple[np.ndarray, int]]:
    """Frames that go together, of so many edges each (f,), and how many of them are new.

    The others repeat them as far as there is room: what is not there costs the same.
    """
    first = 0
    while first < len(counts):
        fits = int(np.searchsorted(np.cumsum(counts[first : first + frames]), edges, side="right"))
        mine = np.arange(first, first + fits)
        spare = edges - counts[mine].sum()
        again = min(frames - fits, int(spare // max(counts[mine].max(), 1)))
        yield np.concatenate([mine, np.resize(mine, again)]), fits
        first += fits


def _edges(x: np.ndarray, cutoff_A: float) -> list[tuple[np.ndarray, np.ndarray]]:
    return [neighbors.frame_edges(frame, cutoff_A) if cutoff_A > 0.0 else _NO_EDGES for frame in x]


_NO_EDGES = (np.zeros(0, np.int32), np.zeros(0, np.int32))


def _joined(lists: list[tuple[np.ndarray, np.ndarray]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges of frames of n beads each, as those of one packed graph."""
    senders, receivers = (
        np.concatenate([ends[k] + n * f for f, ends in enumerate(lists)]).astype(np.int32) for k in (0, 1)
    )
    return senders, receivers
