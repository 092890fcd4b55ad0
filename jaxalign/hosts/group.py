"""The processes of one run, one a host: who this one is, and how all of them come to one answer.

Every process runs the same program on the same values, so questions whose answers may differ (is a stop asked for? is
this committed?) go through here before anything depends on them. Words travel through JAX's coordination service,
never through a device: asking costs two small messages and waits for no computation.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")

_LONG = 7 * 24 * 3600 * 1000
"""Milliseconds that words are waited for: for ever, in practice. A process that is gone is noticed by `watch`."""


@runtime_checkable
class Service(Protocol):
    """JAX's client of the coordination service, as far as it is used here."""

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None: ...
    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...
    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...
    def key_value_dir_get(self, key: str) -> Any: ...


@dataclass(frozen=True)
class Hosts:
    """Process `index` of `count`. Alone, nothing is ever waited for."""

    index: int = 0
    count: int = 1
    service: Service | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @property
    def leader(self) -> bool:
        """Whether this process writes what is written once."""
        return self.index == 0

    def barrier(self, name: str) -> None:
        """Returns when every process is here."""
        if self.service is not None:
            self.service.wait_at_barrier(f"jaxalign/{name}", _LONG)

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds on some process; all processes ask, and all get the same answer."""
        if self.service is None:
            return flag
        question = f"jaxalign/any/{next(self._numbers)}"
        if flag:
            self.service.key_value_set(f"{question}/{self.index}", "yes")
        self.barrier("any")
        return bool(self.service.key_value_dir_get(f"{question}/"))

    def all(self, flag: bool) -> bool:
        """Whether `flag` holds on every process."""
        return not self.any(not flag)

    def told(self, value: T) -> T:
        """Process 0's `value` (JSON), on every process: what it has seen on the disk others may not see yet."""
        if self.service is None:
            return value
        key = f"jaxalign/told/{next(self._numbers)}"
        if self.leader:
            self.service.key_value_set(key, json.dumps(value))
            return value
        return json.loads(self.service.blocking_key_value_get(key, _LONG))

    def each(self, value: T) -> list[T]:
        """Every process's `value` (JSON), in their order; all processes ask, and all get the same answer."""
        if self.service is None:
            return [value]
        question = f"jaxalign/each/{next(self._numbers)}"
        self.service.key_value_set(f"{question}/{self.index}", json.dumps(value))
        told = (self.service.blocking_key_value_get(f"{question}/{index}", _LONG) for index in range(self.count))
        return [json.loads(words) for words in told]

    def share(self, count: int) -> slice:
        """This process's block of `count` things, as even as can be."""
        return slice(count * self.index // self.count, count * (self.index + 1) // self.count)


ALONE = Hosts()
"""The one process of a run that has no other."""
