"""Windows: all replicas of all molecules simulated for a short while with the parameters of the moment.

Replicas stand one after the other, those of a molecule together; arrays over beads have all of theirs in this
order. Each window begins with fresh Maxwell momenta, which leaves the ensemble as it is.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from cgrefine.checkpoint import named_leaves
from cgrefine.energy import BeadEnergies, Params
from cgrefine.sim.langevin import Integrator
from cgrefine.sim.rollout import Chunk, Settings, ended, rollout
from cgrefine.sim.stability import Checks
from cgrefine.status import Status
from cgrefine.system import System, Topology


class Pack(NamedTuple):
    """Replicas that run as one packed graph. kT (g,) kcal/mol; beads: of all those of the packs."""

    system: System
    limits: Checks
    kT: np.ndarray
    beads: slice


class Window(NamedTuple):
    """s frames of r replicas, n beads in all, of one window.

    positions (s, n, 3) float32 Å; alive (s, r); status (r,), fail_step (r,), -1 while alive; failed (n, 3)
    the states that failed, zero without one; ends (n, 3) last good positions.
    """

    positions: np.ndarray
    alive: np.ndarray
    status: np.ndarray
    fail_step: np.ndarray
    failed: np.ndarray
    ends: np.ndarray

    @property
    def failed_fraction(self) -> float:
        """Of the replicas."""
        return float(np.mean(self.status != Status.OK))


@dataclass(frozen=True)
class Molecule:
    """A protein that is refined at a temperature. replicas, beads: its own among all of them."""

    name: str
    topology: Topology
    temperature_K: float
    replicas: slice
    beads: slice

    @property
    def count(self) -> int:
        """Replicas."""
        return self.replicas.stop - self.replicas.start

    def by_replica(self, rows: np.ndarray) -> np.ndarray:
        """Its part of rows over all beads (..., n, 3), as (..., r, n_own, 3)."""
        own = rows[..., self.beads, :]
        return own.reshape(*own.shape[:-2], self.count, self.topology.n_beads, 3)


@dataclass(frozen=True)
class Simulator:
    """How windows are run. packs: side by side on the devices of this process, in turn where there are more.

    Noise depends on the packs, not on the devices.
    """

    model: BeadEnergies
    packs: Sequence[Pack]
    integrator: Integrator
    run: Settings

    @property
    def replicas(self) -> int:
        """Of all packs."""
        return sum(len(pack.kT) for pack in self.packs)

    @property
    def steps(self) -> int:
        """Of a window."""
        return self.run.n_frames * self.run.stride

    def empty(self) -> Window:
        """A window of zeros: shapes and dtypes of any."""
        frames, r = self.run.n_frames, self.replicas
        n = max(pack.beads.stop for pack in self.packs)
        x, whole = np.zeros((n, 3), np.float32), np.zeros(r, np.int32)
        return Window(np.zeros((frames, n, 3), np.float32), np.zeros((frames, r), bool), whole, whole, x, x)

    def window(self, params: Params, positions: np.ndarray, key: jax.Array) -> Window:
        """Run all replicas from positions (n, 3) Å.

        A window is one chunk, which a run ends early in only when every replica of a pack has failed.
        """
        devices = jax.local_devices()[: len(self.packs)]

        def of(k: int) -> list[Chunk]:
            with jax.default_device(devices[k % len(devices)]):
                return self._chunks(self.packs[k], params, positions, jax.random.fold_in(key, k))

        if len(devices) == 1:
            found = [of(k) for k in range(len(self.packs))]
        else:
            with ThreadPoolExecutor(len(devices)) as threads:
                found = list(threads.map(of, range(len(self.packs))))
        parts = [self._joined(chunks) for chunks in found]
        axes = Window(positions=1, alive=1, status=0, fail_step=0, failed=0, ends=0)  # pyright: ignore[reportArgumentType] - axes in the places of arrays
        return Window(
            *(np.concatenate(p, axis=a) for p, a in zip(zip(*parts, strict=True), axes, strict=True))
        )

    def _chunks(self, pack: Pack, params: Params, positions: np.ndarray, key: jax.Array) -> list[Chunk]:
        start = np.asarray(positions[pack.beads], np.float32)
        steps = rollout(
            self.model, params, pack.system, start, pack.kT, key, self.integrator, self.run, pack.limits
        )
        return list(steps)

    def _joined(self, chunks: Sequence[Chunk]) -> Window:
        """The chunks of one pack; frames that were not run because all had failed repeat the last ones."""
        last = ended(named_leaves(chunks[-1].snapshot))
        positions = np.concatenate([c.positions for c in chunks])
        alive = np.concatenate([c.alive for c in chunks])
        missing = self.run.n_frames - len(positions)
        if missing:
            positions = np.concatenate([positions, np.repeat(positions[-1:], missing, axis=0)])
            alive = np.concatenate([alive, np.zeros((missing, alive.shape[1]), bool)])
        failed = np.asarray(last.failed.positions)
        return Window(positions, alive, last.status, last.fail_step, failed, last.positions)
