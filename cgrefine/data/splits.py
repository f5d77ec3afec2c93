"""Training and validation: whole domains, CATH classes, replicas or temperatures; single frames if asked for.

The result is one number a run: its first validation frame. 0 holds out the whole run, its number of
frames none of it.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
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

    domain: those whose hash, sha256(seed, name) as a number in [0, 1), is below the fraction. topology,
    superfamily: whole classes by the same rule, `classes` being domain → class. More data never moves a
    domain to the other side. replica: the last ones of each domain. temperature: the highest ones. frame:
    the last frames of every run; of these, ⌈fraction · n⌉ are held out. Always at least one thing is held
    out, and at least one is left. Raises InputError when there is nothing to divide.
    """
    if by == "frame":
        return tuple(_first_held_frame(run, fraction) for run in runs)
    held = _held_runs(runs, by, fraction, seed, classes or {})
    return tuple(0 if flag else run.n_frames for run, flag in zip(runs, held, strict=True))


def _held_runs(
    runs: Sequence[RunKey], by: By, fraction: float, seed: int, classes: Mapping[str, str]
) -> list[bool]:
    if by in ("domain", "topology", "superfamily"):
        of_run = [run.domain if by == "domain" else classes[run.domain] for run in runs]
        held = _hashed(set(of_run), by, fraction, seed)
        return [name in held for name in of_run]
    if by == "temperature":
        temperatures = sorted({run.temperature_K for run in runs}, reverse=True)
        hot = set(temperatures[: _count(len(temperatures), fraction, "by temperature", "one temperature")])
        return [run.temperature_K in hot for run in runs]
    return _held_replicas(runs, fraction)


def _hashed(names: set[str], by: str, fraction: float, seed: int) -> set[str]:
    """Names whose hash is below the fraction; at least the lowest one, and never the highest one."""
    _at_least_two(len(names), f"by {by}", f"one {by} ({', '.join(names)})")
    place = {name: int(hashlib.sha256(f"{seed}:{name}".encode()).hexdigest(), 16) / 2**256 for name in names}
    ordered = sorted(names, key=lambda name: (place[name], name))
    below = sum(place[name] < fraction for name in names)
    return set(ordered[: min(max(below, 1), len(names) - 1)])


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
    _at_least_two(n, how, only)
    # rounding: 0.1 * 30 must give 3, not 4
    return min(max(math.ceil(fraction * n - 1e-9), 1), n - 1)


def _at_least_two(n: int, how: str, only: str) -> None:
    if n < 2:
        raise InputError(f"data.split {how}: there is only {only}; split by another property")
