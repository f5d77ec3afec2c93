"""What is known of each replica that failed: when, by what, the last good state and the one that failed."""

from typing import NamedTuple

import numpy as np

from cgrefine.sim.rollout import Ended
from cgrefine.sim.stability import Checks, Culprit, Motion, culprit
from cgrefine.status import Status
from cgrefine.system import System

PDB_LIMIT_A = 9000.0
"""Further from the centre of the last good state than this, a coordinate leaves the columns of a PDB file."""


class Failure(NamedTuple):
    """graph; step; culprit; good, failed (n, 3): the last good state and the one that failed, Å, float32.

    displaced: beads of it that are not finite or out of reach, which stand where they last were good; a start
    that is out of reach itself stands at the centre.
    """

    graph: int
    step: int
    culprit: Culprit
    good: np.ndarray
    failed: np.ndarray
    displaced: tuple[int, ...]


def failures(ended: Ended, limits: Checks, system: System, kT: np.ndarray) -> list[Failure]:
    """All failures of a run in the order of its graphs. kT (g,): thermal energies, kcal/mol."""
    x, p, f, e = (np.asarray(part) for part in ended.failed)
    motion = Motion(x, p, f, e, np.asarray(system.mass), np.asarray(kT)[system.graph_id])
    found = []
    for g in np.flatnonzero((ended.status != Status.OK) & system.graph_mask):
        mine = (np.asarray(system.graph_id) == g) & system.bead_mask
        good, failed = ended.positions[mine], x[mine]
        centre = np.median(good, axis=0)
        good = np.where(_in_reach(good, centre), good, centre)
        reach = _in_reach(failed, centre)
        found.append(
            Failure(
                graph=int(g),
                step=int(ended.fail_step[g]),
                culprit=culprit(limits, motion, system, int(g), Status(int(ended.status[g]))),
                good=np.asarray(good, np.float32),
                failed=np.where(reach, failed, good).astype(np.float32),
                displaced=tuple(np.flatnonzero(~reach[:, 0]).tolist()),
            )
        )
    return found


def _in_reach(x: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Whether each bead of (n, 3) can be written, (n, 1); False for one that is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.all(np.abs(x - centre) < PDB_LIMIT_A, axis=1, keepdims=True)
