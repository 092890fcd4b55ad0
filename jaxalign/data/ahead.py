"""Elements made ahead of the one who needs them, in a thread of its own.

Grain's prefetch stands on the same pool of threads, but its `close` returns while an element is still being made
(0.2.18), and what would be made here are arrays on devices: here the thread is gone when the block is left.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

DEPTH = 2
"""Elements in the making or waiting while one is used: one that is ready, and one for a `make` that is late once."""


@contextlib.contextmanager
def ahead(make: Callable[[int], T], indices: range, depth: int = DEPTH) -> Iterator[Iterator[T]]:
    """Iterates over `make(index)` in the order of `indices`, made one after another at most `depth` ahead.

    `make` runs in another thread: it must not talk to other processes, whose threads would do so in another order. What
    it raises is raised, the same exception, where its element was due. Leaving the block waits for the call under way.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="jaxalign-ahead") as thread:
        waiting = iter(indices)
        futures = deque(thread.submit(make, index) for index in islice(waiting, depth))

        def elements() -> Iterator[T]:
            while futures:
                futures.extend(thread.submit(make, index) for index in islice(waiting, 1))
                yield futures.popleft().result()

        try:
            yield elements()
        finally:
            thread.shutdown(cancel_futures=True)
