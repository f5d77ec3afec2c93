"""The frames that a refinement learns from, and what they are worth once the parameters have moved on."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cgrefine.boltzmann.weights import (
    entropy_size,
    kish_size,
    mixture_weights,
    reduced_spread,
)
from cgrefine.boltzmann.windows import Molecule, Window
from cgrefine.status import Status

UNUSABLE = (Status.NON_FINITE,)
"""Failures whose state says nothing."""


class Choice(NamedTuple):
    """Which frames of a window count. burn_in: left out at its beginning; guard: before a failure, in frames.

    negative_weight: frames that the state of a failure counts as.
    """

    burn_in: int
    guard: int
    negative_weight: float


class Sample(NamedTuple):
    """f frames of one molecule that count, replica by replica in order of time. positions (f, n, 3) Å;

    share (f,): 1, or what a failed state counts as; replica (f,) among those of the molecule.
    """

    positions: np.ndarray
    share: np.ndarray
    replica: np.ndarray


def sample_of(molecule: Molecule, window: Window, choice: Choice) -> Sample:
    """The frames of one molecule in a window that count."""
    status = window.status[molecule.replicas]
    alive = window.alive[:, molecule.replicas]
    x, failed = molecule.by_replica(window.positions), molecule.by_replica(window.failed)
    positions, share, replica = [], [], []
    for r in range(molecule.count):
        end = int(alive[:, r].sum())
        if status[r] != Status.OK:
            end -= choice.guard
        good = x[choice.burn_in : max(end, choice.burn_in), r]
        parts, counts = [good], [np.ones(len(good))]
        usable = status[r] != Status.OK and status[r] not in UNUSABLE and np.isfinite(failed[r]).all()
        if usable and choice.negative_weight > 0.0:
            parts.append(failed[r][None].astype(np.float32))
            counts.append(np.array([choice.negative_weight]))
        positions += parts
        share += counts
        replica.append(np.full(sum(map(len, counts)), r, np.int64))
    return Sample(np.concatenate(positions), np.concatenate(share), np.concatenate(replica))


class Pooled(NamedTuple):
    """The samples of the windows that are kept, one after the other, f frames in all.

    values (f, k): of all targets in a row; reduced (w, f): U/kT of each frame with the parameters of each
    window; counts (w,): frames of each.
    """

    sample: Sample
    values: np.ndarray
    reduced: np.ndarray
    counts: np.ndarray


def pooled(
    samples: Sequence[Sample],
    values: Callable[[np.ndarray], np.ndarray],
    reduced: Sequence[Callable[[np.ndarray], np.ndarray]],
) -> Pooled:
    """values: of frames (f, n, 3) -> (f, k). reduced: U/kT (f,) of frames, one function a window.

    Within each replica the frames stay in order of time.
    """
    joined = Sample(*(np.concatenate(parts) for parts in zip(*samples, strict=True)))
    order = np.argsort(joined.replica, kind="stable")
    counts = np.array([len(s.share) for s in samples])
    x = joined.positions[order]
    table = np.stack([u(x) for u in reduced]) if len(x) else np.zeros((len(samples), 0))
    return Pooled(Sample(x, joined.share[order], joined.replica[order]), values(x), table, counts)


class Worth(NamedTuple):
    """Frames at other parameters than their own. weights (f,) sum to 1.

    kish, entropy: effective sizes over f, of the weights before shares; spread: s of the change of U/kT from
    the newest window.
    """

    weights: np.ndarray
    kish: float
    entropy: float
    spread: float


def worth(frames: Pooled, reduced: np.ndarray) -> Worth:
    """reduced (f,): U/kT with the parameters of the moment. Raises ValueError when it is not finite, or when
    pooled windows do not overlap."""
    n = len(frames.sample.share)
    change = reduced - frames.reduced[-1]
    there = frames.counts > 0
    p = mixture_weights(frames.reduced[there], reduced, frames.counts[there])
    shared = p * frames.sample.share
    spread = reduced_spread(change, np.full(n, 1.0 / n))
    return Worth(shared / shared.sum(), kish_size(p) / n, entropy_size(p) / n, spread)
