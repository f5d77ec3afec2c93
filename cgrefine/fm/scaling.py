"""Parallel speed: of the same work on more devices (Amdahl), of work that grows with them (Gustafson).

With a share s of the time of one device that does not divide,
    strong:  T(n)/T(1) = s + (1 - s)/n            Amdahl, AFIPS Conf. Proc. 30, 483 (1967)
    weak:    speed(n)/speed(1) = n - s (n - 1)    Gustafson, Commun. ACM 31, 532 (1988)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Law(NamedTuple):
    """serial: the share s, by least squares of the relative error of times, within 0 and 1.

    residual: root mean square of that error.
    """

    serial: float
    residual: float


def amdahl(devices: Sequence[int], seconds: Sequence[float]) -> Law:
    """Of the times of the same update on some numbers of devices. Raises ValueError without that of one."""
    n, t = _relative(devices, seconds)
    # t n = 1 + s (n - 1), and errors are relative to t
    return _fitted((n - 1.0) / (n * t), (t - 1.0 / n) / t)


def gustafson(devices: Sequence[int], seconds: Sequence[float]) -> Law:
    """Of the times of updates whose work is n times that of one device. Raises ValueError without one.

    speed(n)/speed(1) = n T(1)/T(n) = n - s (n - 1).
    """
    n, t = _relative(devices, seconds)
    return _fitted((n - 1.0) / n, 1.0 - 1.0 / t)


def _relative(devices: Sequence[int], seconds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    n, t = np.asarray(devices, np.float64), np.asarray(seconds, np.float64)
    if not np.any(n == 1):
        raise ValueError(f"scaling needs the time of one device; there are those of {sorted(set(devices))}")
    return n, t / np.mean(t[n == 1])


def _fitted(slope: np.ndarray, value: np.ndarray) -> Law:
    """s that brings slope · s closest to value."""
    square = float(slope @ slope)
    serial = float(np.clip(slope @ value / square, 0.0, 1.0)) if square > 0 else 0.0
    return Law(serial, float(np.sqrt(np.mean((value - slope * serial) ** 2))))
