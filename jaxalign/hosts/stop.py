"""Stopping on request: SIGTERM and the first SIGINT ask, the second one kills.

Long phases poll `stop_requested()`, commit what they have, and raise `Interrupted`.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_ASKED = threading.Event()
"""Signals come to the process and not to a part of it, and so does this."""


def requested() -> bool:
    """Whether this process was asked to stop: for those who wait for something outside while nobody asks them."""
    return _ASKED.is_set()


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Installs the handlers for the block and yields `stop_requested`; the previous handlers return afterwards.

    Outside the main thread, where Python allows no handlers, the question is always answered with no.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    _ASKED.clear()

    def ask(number: int, _: FrameType | None) -> None:
        _ASKED.set()
        signal.signal(number, signal.SIG_DFL)  # the same signal again ends the process at once
        # print() is not safe inside a signal handler that may have interrupted another print().
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: stopping at the next point that can be committed; again to stop at once\n".encode())

    previous = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield requested
    finally:
        _ASKED.clear()
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's, lost by now


def leave(code: int) -> NoReturn:
    """Flushes what was printed and logged and ends the process without waiting for threads.

    After a failed save Orbax can leave threads that wait for minutes for a directory that will never be made.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
