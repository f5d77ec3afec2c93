"""Replicas run until they fail or the time is up, and what was wrong at the failure."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from cgrefine.sim.rollout import Chunk
from cgrefine.sim.stability import CIS_PROLINE_A, Checks
from cgrefine.status import Status
from cgrefine.system import System


class Trial(NamedTuple):
    """What became of g replicas in n packed beads over s saved frames.

    length_ps: of the run; time_ps (g,): of the failure, or of the end; status (g,); temperature_K, potential,
    alive (s, g), see `Chunk`; last (n, 3) Å: the end of the living, and the state one step before failure of
    the others.
    """

    length_ps: float
    time_ps: np.ndarray
    status: np.ndarray
    frame_ps: np.ndarray
    temperature_K: np.ndarray
    potential: np.ndarray
    alive: np.ndarray
    last: np.ndarray

    @property
    def failed(self) -> np.ndarray:
        """(g,) bool."""
        return self.status != Status.OK


def trial(
    chunks: Iterable[Chunk], duration_ps: float, step_ps: float, sink: Callable[[Chunk], None] | None = None
) -> Trial:
    """Go through the chunks of a rollout of that length and time step; sink sees each with its positions."""
    kept = []
    for chunk in chunks:
        if sink is not None:
            sink(chunk)
        last = chunk.positions[-1]
        kept.append(chunk._replace(positions=np.zeros((0, 0, 3), np.float32)))
    end = kept[-1]
    times = np.where(end.fail_step >= 0, np.round(end.fail_step * step_ps, 6), duration_ps)
    joined = [
        np.concatenate([getattr(c, name) for c in kept])
        for name in ("time_ps", "temperature_K", "potential", "alive")
    ]
    return Trial(duration_ps, times, end.status, *joined, last=last)


class Place(NamedTuple):
    """Beads of one molecule where a criterion was (nearly) broken, the distance there and the limit, Å."""

    beads: tuple[int, ...]
    value: float
    limit: float


def failing_place(
    status: Status, limits: Checks, positions: np.ndarray, system: System, graph: int
) -> Place | None:
    """Where a graph is at or closest to the limit of a criterion of distances; None for other criteria.

    positions (n, 3): of the packed system, at the failure or one step before it.
    """
    pairs, mask = {
        Status.BOND: (limits.bonds, limits.bond_mask),
        Status.SECOND_NEIGHBOR: (limits.seconds, limits.second_mask),
        Status.OVERLAP: (limits.pairs, np.ones(len(limits.pairs), bool)),
    }.get(status, (np.zeros((0, 2), int), np.zeros(0, bool)))
    mine = np.flatnonzero(np.asarray(mask) & (np.asarray(system.graph_id)[pairs[:, 0]] == graph))
    if len(mine) == 0:
        return None
    x = np.asarray(positions, np.float64)
    r = np.linalg.norm(x[pairs[mine, 1]] - x[pairs[mine, 0]], axis=1)
    if status == Status.BOND:
        deviation = np.abs(r - limits.r0[mine])
        cis = np.where(np.asarray(limits.may_be_cis)[mine], np.abs(r - CIS_PROLINE_A), deviation)
        worst = int(np.argmax(np.minimum(deviation, cis)))
        sign = 1.0 if r[worst] > limits.r0[mine][worst] else -1.0
        limit = float(limits.r0[mine][worst] + sign * limits.bond_deviation)
    else:
        worst = int(np.argmin(r))
        limit = float(limits.second_min if status == Status.SECOND_NEIGHBOR else limits.overlap_min)
    first = int(np.flatnonzero(np.asarray(system.graph_id) == graph)[0])
    i, j = (int(b) - first for b in pairs[mine[worst]])
    return Place((i, j), float(r[worst]), limit)
