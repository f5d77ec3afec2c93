"""The replica pool: where each replica begins the next window, and where those that failed go back to."""

from typing import NamedTuple

import numpy as np

from cgrefine.boltzmann.windows import Molecule, Window
from cgrefine.status import Status


class Pool(NamedTuple):
    """positions (n, 3) float32 Å: where the next window begins; earlier (d, n, 3): where windows began that a
    replica survived, the newest first; kept (r,): how many of them are its own, at least 1 (its start)."""

    positions: np.ndarray
    earlier: np.ndarray
    kept: np.ndarray


class Rules(NamedTuple):
    """earlier_fraction: of failed replicas that go back to one of the states before; guard_frames: saved
    frames before a failure that are not gone back to; random_reset: share of healthy ones that go back."""

    earlier_fraction: float
    guard_frames: int
    random_reset: float


def pool_of(positions: np.ndarray, replicas: int, depth: int) -> Pool:
    """At the start: each replica has its start alone, of `depth` states that are kept."""
    x = np.asarray(positions, np.float32)
    return Pool(x, np.repeat(x[None], depth, axis=0), np.ones(replicas, np.int32))


def after(
    pool: Pool, window: Window, molecules: list[Molecule], rules: Rules, rng: np.random.Generator
) -> tuple[Pool, int]:
    """The pool after a window, and how many healthy replicas were sent back at random.

    A replica that survived goes on, and the start of this window is kept. One that failed goes back to one of
    its earlier states, or to the last frame of the window guard_frames before its failure (the start of the
    window, if there is none).
    """
    failed = window.status != Status.OK
    draws = rng.random((2, len(failed)))
    earlier_one = (draws[0] * pool.kept).astype(int)
    back = ~failed & (draws[1] < rules.random_reset)
    to_earlier = back | (failed & (draws[1] < rules.earlier_fraction))
    positions, history, kept = window.ends.copy(), pool.earlier.copy(), pool.kept.copy()
    good = window.alive.sum(axis=0) - rules.guard_frames
    for molecule in molecules:
        n = molecule.topology.n_beads
        for k, r in enumerate(range(molecule.replicas.start, molecule.replicas.stop)):
            mine = slice(molecule.beads.start + k * n, molecule.beads.start + (k + 1) * n)
            if to_earlier[r]:
                positions[mine] = pool.earlier[earlier_one[r], mine]
            elif failed[r]:
                last = window.positions[good[r] - 1, mine] if good[r] > 0 else pool.positions[mine]
                positions[mine] = last
            if not failed[r]:
                history[1:, mine] = pool.earlier[:-1, mine]
                history[0, mine] = pool.positions[mine]
                kept[r] = min(pool.kept[r] + 1, len(history))
    return Pool(positions, history, kept), int(back.sum())
