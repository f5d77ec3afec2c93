"""Training and validation: whole domains, whole replicas, or whole temperatures; never single frames."""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from cgrefine.errors import InputError


class RunKey(NamedTuple):
    """One trajectory of the data set."""

    domain: str
    temperature_K: float
    replica: int


def validation_runs(
    runs: Sequence[RunKey], by: Literal["domain", "replica", "temperature"], fraction: float, seed: int
) -> tuple[bool, ...]:
    """For each run, whether it is held out for validation. Deterministic, whatever the order of the runs.

    domain: the first in the order of sha256(seed, name). replica: the last ones of each domain.
    temperature: the highest ones. The number held out is ⌈fraction · n⌉, at least 1, and at least 1 is left.
    Raises InputError when there is nothing to divide.
    """
    if by == "domain":
        names = sorted({run.domain for run in runs}, key=lambda name: (_hash(seed, name), name))
        held = set(names[: _count(len(names), fraction, "by domain", "one domain")])
        return tuple(run.domain in held for run in runs)
    if by == "temperature":
        temperatures = sorted({run.temperature_K for run in runs}, reverse=True)
        hot = set(temperatures[: _count(len(temperatures), fraction, "by temperature", "one temperature")])
        return tuple(run.temperature_K in hot for run in runs)
    held_replicas: set[tuple[str, int]] = set()
    for domain in {run.domain for run in runs}:
        replicas = sorted({run.replica for run in runs if run.domain == domain}, reverse=True)
        count = _count(len(replicas), fraction, "by replica", f"one replica of domain {domain}")
        held_replicas |= {(domain, replica) for replica in replicas[:count]}
    return tuple((run.domain, run.replica) in held_replicas for run in runs)


def _count(n: int, fraction: float, how: str, only: str) -> int:
    if n < 2:
        raise InputError(
            f"data.split {how}: there is only {only}; split by another of domain, replica, temperature"
        )
    # rounding: 0.1 * 30 must give 3, not 4
    return min(max(math.ceil(fraction * n - 1e-9), 1), n - 1)


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
