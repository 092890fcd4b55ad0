"""No process of a run outlives the others: who fails says so, and who falls silent is missed.

Every process leaves a sign of life each second; process 0 misses the one whose signs stop. A failure, found or missed,
is written where every process looks, and each ends with its message and its exit code. Process 0 carries JAX's
coordination service: when it dies, JAX itself ends the others within a second, with a message of its own.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import jax

from jaxalign.errors import JaxalignError
from jaxalign.hosts.group import Hosts, Service
from jaxalign.hosts.stop import leave

SECONDS_BETWEEN_SIGNS = 1.0
_SECONDS_TO_HEAR = 5.0
"""How long process 0, at whose end the service ends, lets the others hear of a failure."""


class ProcessLost(JaxalignError):
    """A process of a run of several is gone, or the run's processes did not find together."""

    exit_code = 9


@dataclass(frozen=True)
class Failure:
    """Why the run ends: in words that name the process, and the exit code of all."""

    what: str
    code: int


class Watch:
    """Watches over the processes of a run from a thread of its own, between `__enter__` and `__exit__`.

    `patience` are the seconds after which a silent process counts as gone. `end` is called, in the thread, with the
    exit code when another process has failed.
    """

    def __init__(self, hosts: Hosts, service: Service, patience: float, end: Callable[[int], object] = leave):
        self._hosts, self._service, self._patience, self._end = hosts, service, patience, end
        self._over = threading.Event()
        self._looked = time.monotonic()
        self._seen: dict[str, tuple[str, float]] = {}
        self._thread = threading.Thread(target=self._run, name="jaxalign-watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._sign(0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def fail(self, failure: Failure) -> None:
        """Tells the others. Process 0 returns when they have heard."""
        self._over.set()
        self._service.key_value_set(f"jaxalign/failure/{self._hosts.index}", json.dumps(vars(failure)))
        self._hear()

    def _hear(self) -> None:
        """Process 0 stays while there is somebody who has not heard; a lost one never will."""
        self._service.key_value_set(f"jaxalign/heard/{self._hosts.index}", "yes", allow_overwrite=True)
        limit = time.monotonic() + _SECONDS_TO_HEAR
        while self._hosts.leader and time.monotonic() < limit:
            if len(self._service.key_value_dir_get("jaxalign/heard/")) == self._hosts.count:
                return
            time.sleep(0.1)

    def _run(self) -> None:
        number = 0
        while not self._over.wait(SECONDS_BETWEEN_SIGNS):
            number += 1
            failure = None
            # The network may fail for a moment; where the service is gone, JAX ends this process.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._sign(number)
                failure = self._told() or self._missed(time.monotonic())
            if failure is not None and not self._over.is_set():
                print(f"jaxalign: {failure.what}", file=sys.stderr, flush=True)
                with contextlib.suppress(jax.errors.JaxRuntimeError):
                    self._hear()
                self._end(failure.code)
                return

    def _sign(self, number: int) -> None:
        key = f"jaxalign/signs/{self._hosts.index}"
        self._service.key_value_set(key, str(number), allow_overwrite=True)

    def _told(self) -> Failure | None:
        for _, words in self._service.key_value_dir_get("jaxalign/failure/"):
            return Failure(**json.loads(words))
        return None

    def _missed(self, now: float) -> Failure | None:
        """The process whose sign has not changed for too long, missed and told by process 0."""
        if not self._hosts.leader:
            return None
        if now - self._looked > self._patience / 2:  # this process was asleep itself and saw nobody
            self._seen.clear()
        self._looked = now
        for key, sign in self._service.key_value_dir_get("jaxalign/signs/"):
            before, since = self._seen.get(key, ("", now))
            if sign != before:
                self._seen[key] = (sign, now)
            elif now - since > self._patience:
                failure = Failure(
                    f"process {key.rpartition('/')[2]} of {self._hosts.count} has not been heard of for "
                    f"{now - since:.0f} s: killed, or its host is gone. Everything committed is intact; the same "
                    "command continues, with any number of processes",
                    ProcessLost.exit_code,
                )
                self._service.key_value_set("jaxalign/failure/missed", json.dumps(vars(failure)))
                return failure
        return None
