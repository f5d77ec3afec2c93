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

    displaced: beads of it that are not finite or out of reach, which stand where they last were good.
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
        with np.errstate(invalid="ignore"):
            reach = np.abs(failed - good.mean(axis=0)).max(axis=1) < PDB_LIMIT_A  # False for NaN
        found.append(
            Failure(
                graph=int(g),
                step=int(ended.fail_step[g]),
                culprit=culprit(limits, motion, system, int(g), Status(int(ended.status[g]))),
                good=np.asarray(good, np.float32),
                failed=np.where(reach[:, None], failed, good).astype(np.float32),
                displaced=tuple(np.flatnonzero(~reach).tolist()),
            )
        )
    return found
