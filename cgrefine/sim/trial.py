"""Replicas run until they fail or the time is up."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cgrefine.sim.rollout import Chunk
from cgrefine.status import Status


class Trial(NamedTuple):
    """What became of g replicas over s saved frames.

    length_ps: of the run; time_ps (g,): of the failure, or of the end; status (g,); temperature_K, potential,
    alive (s, g), see `Chunk`.
    """

    length_ps: float
    time_ps: np.ndarray
    status: np.ndarray
    frame_ps: np.ndarray
    temperature_K: np.ndarray
    potential: np.ndarray
    alive: np.ndarray

    @property
    def failed(self) -> np.ndarray:
        """(g,) bool."""
        return self.status != Status.OK


def trial(chunks: Iterable[Chunk], duration_ps: float, step_ps: float) -> Trial:
    """Go through the chunks of a rollout of that length and time step, whose positions are not kept."""
    kept = []
    for chunk in chunks:
        kept.append(chunk._replace(positions=np.zeros((0, 0, 3), np.float32)))
    end = kept[-1]
    times = np.where(end.fail_step >= 0, np.round(end.fail_step * step_ps, 6), duration_ps)
    joined = [
        np.concatenate([getattr(c, name) for c in kept])
        for name in ("time_ps", "temperature_K", "potential", "alive")
    ]
    return Trial(duration_ps, times, end.status, *joined)
