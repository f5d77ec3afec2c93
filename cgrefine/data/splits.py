"""Training and validation: whole domains, CATH classes, replicas or temperatures; single frames if asked for.

The result is one number a run: its first validation frame. 0 holds out the whole run, its number of
frames none of it.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from cgrefine.errors import InputError

By = Literal["domain", "topology", "superfamily", "replica", "temperature", "frame"]


class RunKey(NamedTuple):
    """One trajectory of the data set, with its number of frames."""

    domain: str
    temperature_K: float
    replica: int
    n_frames: int


def held_from(
    runs: Sequence[RunKey], by: By, fraction: float, seed: int, classes: Mapping[str, str] | None = None
) -> tuple[int, ...]:
    """First validation frame of each run. Deterministic, whatever the order of the runs.

    domain: the first in the order of sha256(seed, name). topology, superfamily: whole classes in the same
    order, `classes` being domain → class, until they hold the fraction of the domains. replica: the last
    ones of each domain. temperature: the highest ones. frame: the last frames of every run. Of n things
    ⌈fraction · n⌉ are held out, at least 1, and at least 1 is left. Raises InputError when there is nothing
    to divide.
    """
    if by == "frame":
        return tuple(_first_held_frame(run, fraction) for run in runs)
    held = _held_runs(runs, by, fraction, seed, classes or {})
    return tuple(0 if flag else run.n_frames for run, flag in zip(runs, held, strict=True))


def _held_runs(
    runs: Sequence[RunKey], by: By, fraction: float, seed: int, classes: Mapping[str, str]
) -> list[bool]:
    if by == "domain":
        names = _shuffled({run.domain for run in runs}, seed)
        chosen = set(names[: _count(len(names), fraction, "by domain", "one domain")])
        return [run.domain in chosen for run in runs]
    if by in ("topology", "superfamily"):
        chosen = _held_classes({run.domain for run in runs}, by, fraction, seed, classes)
        return [classes[run.domain] in chosen for run in runs]
    if by == "temperature":
        temperatures = sorted({run.temperature_K for run in runs}, reverse=True)
        hot = set(temperatures[: _count(len(temperatures), fraction, "by temperature", "one temperature")])
        return [run.temperature_K in hot for run in runs]
    return _held_replicas(runs, fraction)


def _held_classes(
    names: set[str], by: str, fraction: float, seed: int, classes: Mapping[str, str]
) -> set[str]:
    """Classes in random order while they hold fewer domains than asked for; one class always stays."""
    members: dict[str, int] = {}
    for name in names:
        members[classes[name]] = members.get(classes[name], 0) + 1
    _count(len(members), fraction, f"by {by}", f"one {by} ({next(iter(members))})")
    wanted = math.ceil(fraction * len(names) - 1e-9)
    chosen: set[str] = set()
    held = 0
    for name in _shuffled(members, seed)[:-1]:
        if held >= wanted:
            break
        chosen.add(name)
        held += members[name]
    return chosen


def _held_replicas(runs: Sequence[RunKey], fraction: float) -> list[bool]:
    of_domain: dict[str, set[int]] = {}
    for run in runs:
        of_domain.setdefault(run.domain, set()).add(run.replica)
    chosen = {}
    for domain, replicas in of_domain.items():
        count = _count(len(replicas), fraction, "by replica", f"one replica of domain {domain}")
        chosen[domain] = set(sorted(replicas, reverse=True)[:count])
    return [run.replica in chosen[run.domain] for run in runs]


def _first_held_frame(run: RunKey, fraction: float) -> int:
    what = f"run {run.temperature_K:g} K, replica {run.replica} of domain {run.domain} has only"
    return run.n_frames - _count(run.n_frames, fraction, "by frame", f"{what} {run.n_frames} frame")


def _count(n: int, fraction: float, how: str, only: str) -> int:
    if n < 2:
        raise InputError(
            f"data.split {how}: there is only {only}; split by another of domain, replica, temperature"
        )
    # rounding: 0.1 * 30 must give 3, not 4
    return min(max(math.ceil(fraction * n - 1e-9), 1), n - 1)


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}:{name}".encode()).hexdigest(), name))
