"""Comparisons as token ids, block by block in the order of the source, made by several processes."""

import itertools
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from jaxtyping import Int

from jaxalign.data.comparisons.record import Comparison

BLOCK = 64
"""Comparisons that go to a process at once."""
WORKERS = min(os.cpu_count() or 1, 16)
WAITING = 4
"""Blocks in the making or made, for each process: memory is theirs, whatever the size of the source."""
ALONE = 4096
"""Comparisons that one process makes sooner than others have started."""


@dataclass(frozen=True)
class Ids:
    """One comparison. `cut` names what of it was truncated: prompt, answer."""

    prompt: Int[np.ndarray, " p"]
    answers: tuple[Int[np.ndarray, " _"], ...]
    cut: tuple[str, ...] = ()


Encoder = Callable[[Sequence[Comparison]], list[Ids | str]]
"""(comparisons) → for each its ids, or why it is left out."""


def tokenised(
    comparisons: Iterable[Comparison], encode: Encoder, count: int, workers: int = WORKERS
) -> Generator[tuple[Comparison, Ids | str], None, None]:
    """Each of about `count` comparisons with what `encode` makes of it, which also is sent to other processes.

    Errors of `encode` and of `comparisons` are raised here. Leaving the iterator ends the processes.
    """
    left = iter(comparisons)
    blocks = iter(lambda: list(itertools.islice(left, BLOCK)), [])
    if workers < 2 or count <= ALONE:
        for block in blocks:
            yield from zip(block, encode(block), strict=True)
        return
    # a fork of a process in which JAX has threads can hang
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (encode,)) as pool:
        try:
            first = itertools.islice(blocks, workers * WAITING)
            waiting = deque((block, pool.submit(_made, block)) for block in first)
            while waiting:
                block, future = waiting.popleft()
                yield from zip(block, future.result(), strict=True)
                waiting.extend((block, pool.submit(_made, block)) for block in itertools.islice(blocks, 1))
        finally:
            pool.shutdown(cancel_futures=True)


_encode: list[Encoder] = []


def _begin(encode: Encoder) -> None:
    # a terminal sends its Ctrl-C to all processes, and the one that reads decides what becomes of it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # the other processors are the other processes'
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _encode[:] = [encode]


def _made(block: list[Comparison]) -> list[Ids | str]:
    return _encode[0](block)
