"""Points of the plane with the forces there, and their weights: the data set of the toy.

The mean force at x is an average over y with the weights exp(-V(x, y)/kT). Points that were drawn otherwise
are weighted: uniform ones, and those of dynamics at another temperature kT_s, by

    w ∝ exp(-(1/kT - 1/kT_s) (V(x, y) - V(x, 0))),      1/kT_s = 0 for uniform points,

whose second term is a function of x alone: it leaves the average at each x as it is, and keeps points on high
ground from being lost.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgrefine.data.frames import FrameSet, frame_set
from cgrefine.data.store import in_memory
from cgrefine.energy import FieldTerm
from cgrefine.system import topology_from_species
from cgrefine.toy.dynamics import Course, run, settled
from cgrefine.toy.potentials import EDGE_A, plane

CROWD = 50
"""Particles that are stored as one frame, of so many beads that know nothing of each other."""

HELD_OUT = 0.1
"""Share of the points that no model is fitted to."""


class Points(NamedTuple):
    """n points. x, y (n,) Å; force (n,) along x, kcal/mol/Å; weight (n,), of mean 1; held_out (n,) bool."""

    x: np.ndarray
    y: np.ndarray
    force: np.ndarray
    weight: np.ndarray
    held_out: np.ndarray

    @property
    def effective(self) -> float:
        """Kish's number of points of equal weight."""
        return float(self.weight.sum() ** 2 / (self.weight**2).sum())

    def where(self, chosen: np.ndarray) -> "Points":
        """The chosen points (n,) bool, with weights of mean 1 again."""
        part = Points(*(column[chosen] for column in self))
        return part._replace(weight=part.weight / part.weight.mean())


def uniform(potential: FieldTerm, kT: float, count: int, seed: int) -> Points:
    """Points of equal chance on the square from -EDGE_A to EDGE_A, weighted for kT."""
    x, y = np.random.default_rng(seed).uniform(-EDGE_A, EDGE_A, (2, count))
    return _points(potential, x, y, 1.0 / kT, seed)


def langevin(
    potential: FieldTerm, kT: float, sampling_kT: float, count: int, course: Course, seed: int
) -> Points:
    """Frames of Langevin dynamics of the plane at sampling_kT, weighted for kT.

    Only frames with x from -EDGE_A to EDGE_A, `count` of them in random order. Raises ValueError when the
    course gives fewer.
    """
    rng = np.random.default_rng(seed)
    starts = plane(*rng.uniform(-EDGE_A, EDGE_A, (2, course.replicas)))
    frames = settled(run(potential, {}, starts, sampling_kT, course, seed), course)
    frames = frames.reshape(-1, 3).astype(np.float64)
    inside = frames[np.abs(frames[:, 0]) < EDGE_A]
    if len(inside) < count:
        raise ValueError(f"{len(inside)} frames within {EDGE_A:g} Å, {count} wanted")
    x, y = rng.permutation(inside)[:count, :2].T
    return _points(potential, x, y, 1.0 / kT - 1.0 / sampling_kT, seed)


def _points(potential: FieldTerm, x: np.ndarray, y: np.ndarray, beta: float, seed: int) -> Points:
    """beta: 1/kT less that of the sampling, mol/kcal."""
    with jax.enable_x64(True):
        at = jnp.asarray(plane(x, y))
        v, pull = jax.vjp(lambda r: potential.scalar({}, r), at)
        force = -np.asarray(pull(jnp.ones_like(v))[0])[:, 0]
        above = np.asarray(v - potential.scalar({}, jnp.asarray(plane(x, np.zeros_like(y)))))
    log_weight = -beta * above
    weight = np.exp(log_weight - log_weight.max())
    held_out = np.zeros(len(x), bool)
    held_out[np.random.default_rng([seed, 1]).permutation(len(x))[: round(HELD_OUT * len(x))]] = True
    return Points(x, y, force, weight / weight.mean(), held_out)


class Sets(NamedTuple):
    """What the trainer reads: crowds of particles as frames."""

    training: FrameSet
    validation: FrameSet


def sets(points: Points) -> Sets:
    """The points, CROWD at a time, with x alone: (x, 0, 0), and the force along it.

    Up to CROWD - 1 points of each part are left over, so that every frame is full.
    """
    parts = [_crowds(points, points.held_out == held) for held in (False, True)]
    held = np.repeat([False, True], [len(part["positions"]) for part in parts])
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    arrays |= {
        "temperature_K": np.zeros(len(held)),
        "replica": held,
        "frame": np.arange(len(held)),
        "validation": held,
    }
    crowd = topology_from_species([0] * CROWD, breaks=range(1, CROWD))
    domain = in_memory("particle", crowd, arrays)
    return Sets(frame_set([domain], False, 0.0), frame_set([domain], True, 0.0))


def _crowds(points: Points, chosen: np.ndarray) -> dict[str, np.ndarray]:
    places = np.flatnonzero(chosen)
    places = places[: len(places) // CROWD * CROWD]

    def along(column: np.ndarray) -> np.ndarray:
        return plane(column[places], np.zeros(len(places))).reshape(-1, CROWD, 3)

    return {
        "positions": along(points.x),
        "forces": along(points.force),
        "weights": points.weight[places].reshape(-1, CROWD),
    }


def halves(points: Points, at: float) -> tuple[Points, Points]:
    """The points left and right of a value of x."""
    return points.where(points.x < at), points.where(points.x >= at)
