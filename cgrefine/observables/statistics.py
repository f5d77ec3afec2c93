"""Means with standard errors from independent groups: replicas, or blocks of one trajectory."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cgrefine.observables.structure import Observable, frame_means


class Estimate(NamedTuple):
    """mean, stderr: shape of the observable; stderr is NaN from a single group. groups: (g, ...) means."""

    mean: np.ndarray
    stderr: np.ndarray
    groups: np.ndarray


def estimate(observable: Observable, groups: Sequence[np.ndarray]) -> Estimate:
    """Mean over groups of frames (each (f, n, 3) Å), each group weighted alike; empty groups are left out.

    The standard error is that of the spread between groups, so correlation within a group is accounted
    for, and that between groups (common start) is not. Raises ValueError when every group is empty.
    """
    kept = [np.asarray(g) for g in groups if len(g)]
    if not kept:
        raise ValueError(f"{observable.name}: no frames to average")
    means = np.stack([frame_means(observable, g) for g in kept])
    if len(kept) == 1:
        return Estimate(means[0], np.full(observable.shape, np.nan), means)
    return Estimate(means.mean(0), means.std(0, ddof=1) / np.sqrt(len(kept)), means)
