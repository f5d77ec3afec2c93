"""Signals that ask for an end: work that writes its state stops after the piece at hand."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Slurm sends the first two before it takes a node away."""


@contextmanager
def asked_to_end() -> Iterator[Callable[[], int | None]]:
    """Yield a function that tells which signal asked for an end; a second one acts at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)

    try:
        before = {number: signal.signal(number, note) for number in SIGNALS}
    except ValueError:
        # only the main thread of a process may listen; workers of a pool are ended by their scheduler
        before = {}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
