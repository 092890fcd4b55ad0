"""Several processes as threads of one: the coordination service in memory, for tests of what the processes agree on."""

import threading
from collections.abc import Callable
from typing import Any

from jaxalign.hosts.group import Hosts

SECONDS = 20.0
"""Far more than any of these tests waits; a test that hangs fails instead."""


class Memory:
    """What JAX's client of the coordination service does, between `count` threads."""

    def __init__(self, count: int):
        self._barrier = threading.Barrier(count, timeout=SECONDS)
        self._changed = threading.Condition()
        self.words: dict[str, str] = {}

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None:
        self._barrier.wait()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        with self._changed:
            assert allow_overwrite or key not in self.words, f"{key} is set twice"
            self.words[key] = value
            self._changed.notify_all()

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: key in self.words, SECONDS), f"{key} is never set"
            return self.words[key]

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        with self._changed:
            return [(name, value) for name, value in self.words.items() if name.startswith(key)]


def together(count: int, work: Callable[[Hosts], Any]) -> list[Any]:
    """What `work` returns on each of `count` hosts, run side by side; an error on one is raised here."""
    service, found, errors = Memory(count), [None] * count, []

    def run(index: int) -> None:
        try:
            found[index] = work(Hosts(index, count, service))
        except BaseException as error:
            errors.append(error)
            service._barrier.abort()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return found
