"""Array work on a stream of items in a few threads: order kept, memory bounded."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

THREADS = 2
"""One waits for memory or disk while the other computes."""


def in_threads(function: Callable[[T], U], items: Iterable[T], threads: int = THREADS) -> Iterator[U]:
    """function(item) of each item, in order, worked on ahead of time by a few threads.

    For array work, which lets other threads run. An exception comes up at its item's place.
    """
    waiting: deque[Future[U]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
