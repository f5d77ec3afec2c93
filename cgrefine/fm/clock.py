"""Where the time of an epoch goes: seconds of an update, and how long the devices had no batch to work on."""

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax

T = TypeVar("T")


class Clock:
    """Times the updates of an epoch; the first one, which compiles, is left out.

    Updates are dispatched while the one before still runs. So the time that it takes to get batches counts
    as waiting only when the devices had finished by the end of it. All of it then does, so the share of
    waiting is an upper bound.
    """

    def __init__(self) -> None:
        self._count = 0
        self._waited = 0.0
        self._running: Any = None
        self._begin = time.perf_counter()
        self._first = math.nan

    def fetched(self, batches: Callable[[], T]) -> T:
        """The next batches, timed."""
        begin = time.perf_counter()
        found = batches()
        if self._running is not None and self._running.is_ready():
            self._waited += time.perf_counter() - begin
        return found

    def updated(self, result: jax.Array) -> None:
        """To be called after each dispatch of an update, with an array that it computes."""
        self._count += 1
        if self._count > 1:
            self._running = result
            return
        jax.block_until_ready(result)
        now = time.perf_counter()
        self._first, self._begin = now - self._begin, now

    def read(self) -> tuple[float, float]:
        """Seconds an update, and the share of waiting (nan for fewer than two updates).

        To be called when all updates have ended. Without any update both are nan.
        """
        if self._count < 2:
            return self._first, math.nan
        elapsed = time.perf_counter() - self._begin
        return elapsed / (self._count - 1), self._waited / elapsed
