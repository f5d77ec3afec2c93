"""Langevin dynamics of a particle in a potential: many replicas in the engine of `sim`, a bead each."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from cgrefine.config.running import Criteria
from cgrefine.energy import BeadEnergies, Params
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.rollout import Settings, rollout, settings
from cgrefine.sim.stability import Checks, checks
from cgrefine.status import Status
from cgrefine.system import System, Topology, pack, topology_from_species

PARTICLE: Topology = topology_from_species([0])

NO_LIMITS = Criteria(max_force_kcal_mol_A=1e9, max_kinetic_kT=1e9, size_limits=False)
"""A particle fails only by numbers that are not finite."""


@dataclass(frozen=True)
class Course:
    """A run. replicas: independent particles; dt, friction, mass, duration, interval: internal units.

    burn_in: share of the frames that `settled` leaves out.
    """

    replicas: int
    dt: float
    friction: float
    mass: float
    duration: float
    interval: float
    burn_in: float

    @property
    def integrator(self) -> Langevin:
        """BAOAB."""
        return Langevin(self.dt, self.friction)

    @property
    def settings(self) -> Settings:
        """Frames and steps; chunks of any length will do."""
        return settings(self.duration, self.interval, self.dt, cutoff_A=0.0, max_chunk_frames=100)


def particles(replicas: int, mass: float) -> System:
    """So many graphs of one bead of that mass (g/mol)."""
    system = pack([PARTICLE] * replicas)
    return system._replace(mass=np.full(replicas, mass))


def unlimited(system: System) -> Checks:
    """Criteria that only numbers which are not finite meet."""
    return checks(system, np.zeros(0), NO_LIMITS)


def run(
    energy: BeadEnergies,
    params: Params,
    starts: Float[np.ndarray, "replicas 3"],
    kT: float,
    course: Course,
    seed: int,
) -> Float[np.ndarray, "frames replicas 3"]:
    """Positions (Å) of all frames, float32.

    Raises ValueError when a particle came to where the energy is not finite.
    """
    system = particles(len(starts), course.mass)
    chunks = list(
        rollout(
            energy,
            params,
            system,
            np.asarray(starts, np.float32),
            np.full(len(starts), kT),
            jax.random.key(seed),
            course.integrator,
            course.settings,
            unlimited(system),
        )
    )
    if np.any(chunks[-1].status != Status.OK):
        raise ValueError(f"{np.sum(chunks[-1].status != Status.OK)} particles left all that is finite")
    return np.concatenate([c.positions for c in chunks])


def settled(frames: np.ndarray, course: Course) -> np.ndarray:
    """Without those of the burn-in."""
    return frames[int(course.burn_in * len(frames)) :]
