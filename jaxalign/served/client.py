"""Asks a server many things at once: what was answered before is read, what fails is tried again, nothing is lost.

Answers come in the order in which they arrive. An answer is on the disk before anybody is told of it. What cannot be
had is a `Failure` that says why, and whoever asked decides what that means; a server that refuses everything, or a
budget that is spent, is a ServerError. A stop that is asked for raises Interrupted between two answers; requests on
their way are given a moment to arrive and be kept.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from jaxalign.errors import Interrupted, ServerError
from jaxalign.hosts import stop
from jaxalign.served.answers import Answers, key_of
from jaxalign.served.attempts import Attempts, Clock, Failure
from jaxalign.served.said import KEPT, Garbage, Said, parsed, said
from jaxalign.served.server import Server
from jaxalign.served.transport import Reply
from jaxalign.types import StopRequested

LOOK_SECONDS = 0.2
"""How often whoever waits for answers looks whether a stop was asked for."""

GRACE_SECONDS = 5.0
"""What requests on their way are given to arrive when nobody waits for them any more."""


@dataclass(frozen=True)
class Request:
    """One question: `body` is its JSON with the model's name, `about` what else decides the answer (which policy is
    served under that name)."""

    path: str
    body: Mapping[str, Any]
    about: str = ""

    @property
    def key(self) -> str:
        """What its answer is kept by. The address of the server is no part of it."""
        return key_of(self.path, self.body, self.about)


class Client:
    """A server, with what it answered. Raises ConfigError for a key that is not set or answers that cannot be read.

    `read` counts requests that were answered before.
    """

    def __init__(self, server: Server, stop_requested: StopRequested = stop.requested, clock: Clock | None = None):
        self.server, self.address = server, server.address()
        self.answers = Answers(server.answers)
        self.read = 0
        self._stop_requested = stop_requested
        self._attempts = Attempts(server, self.address, clock or Clock())
        self._failures = 0

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answers.close()

    @property
    def sent(self) -> int:
        """Requests sent so far, those that failed included."""
        return self._attempts.sent

    def ask(self, requests: Sequence[Request]) -> Iterator[tuple[int, Said | Failure]]:
        """What came of each request, by its number; equal ones are sent once."""
        numbers: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            numbers.setdefault(request.key, []).append(number)
        left = []
        for key, same in numbers.items():
            known = self._known(key)
            if known is None:
                left.append((key, requests[same[0]]))
                continue
            self.read += 1
            yield from ((number, known) for number in same)
        with contextlib.closing(self._arriving(left)) as arriving:
            for done, (key, outcome) in enumerate(arriving, 1):
                yield from ((number, outcome) for number in numbers[key])
                if self._stop_requested() and done < len(left):
                    raise Interrupted(f"stopped after {done} of {len(left)} answers; the same command continues there")

    def command(self, method: str, path: str, body: Mapping[str, Any] | None = None, root: bool = False) -> bytes:
        """Has the server do something and returns what it says; `root`: the path does not stand under /v1.

        Nothing of it is kept. Raises ServerError with what the server says where it does not.
        """
        base = self.address.base.removesuffix("/v1") if root else self.address.base
        outcome = self._attempts.tried(method, base + path, body, lambda reply: reply.body, threading.Event())
        if isinstance(outcome, Failure):
            raise ServerError(f"{self.address}: {method} {path}: {outcome.sentence}")
        return outcome

    # ------------------------------------------------------------------------------------------------ many at once

    def _arriving(self, left: Sequence[tuple[str, Request]]) -> Generator[tuple[str, Said | Failure], None, None]:
        """What comes of requests that are not answered yet."""
        waiting: queue.SimpleQueue[tuple[str, Request]] = queue.SimpleQueue()
        arrived: queue.SimpleQueue[tuple[str, Said | Failure | BaseException]] = queue.SimpleQueue()
        closing = threading.Event()
        for each in left:
            waiting.put(each)
        # daemons: nobody waits for a server that hangs when all else has ended
        work = partial(self._work, waiting, arrived, closing)
        count = min(self.server.concurrency, len(left))
        threads = [threading.Thread(target=work, daemon=True, name=f"asks {self.address}") for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            for _ in left:
                key, outcome = self._next(arrived)
                if isinstance(outcome, BaseException):
                    raise outcome
                if isinstance(outcome, Failure):
                    self._refuse_dead(outcome)
                yield key, outcome
        finally:
            closing.set()
            end = time.monotonic() + GRACE_SECONDS
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))

    def _work(
        self,
        waiting: "queue.SimpleQueue[tuple[str, Request]]",
        arrived: "queue.SimpleQueue[tuple[str, Said | Failure | BaseException]]",
        closing: threading.Event,
    ) -> None:
        while not closing.is_set():
            try:
                key, request = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                arrived.put((key, self._answer(key, request, closing)))
            except BaseException as error:
                arrived.put((key, error))
                return

    def _next(self, arrived: "queue.SimpleQueue[Any]") -> Any:
        while True:
            try:
                return arrived.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if self._stop_requested():
                    raise Interrupted(
                        f"stopped while {self.address} had not answered; the same command continues there"
                    ) from None

    def _refuse_dead(self, failure: Failure) -> None:
        self._failures += failure.of_server
        if self._failures >= self.server.max_failures:
            raise ServerError(
                f"{self.address}: {self._failures} requests were given up, the last one because {failure.sentence}. "
                f"{self.sent} were sent; {self._kept()}. Mend the server, or raise max_failures, and run the "
                "same command again"
            )

    def _kept(self) -> str:
        return f"what was answered is kept in {self.answers.directory} and is not asked again"

    # ------------------------------------------------------------------------------------------------- one request

    def _known(self, key: str) -> Said | None:
        kept = self.answers.get(key)
        try:
            return None if kept is None else said(kept)
        except Garbage:  # of another version, which read more into it
            self.answers.forget(key)
            return None

    def _answer(self, key: str, request: Request, closing: threading.Event) -> Said | Failure:
        def read(reply: Reply) -> Said:
            found = parsed(reply.body)
            answer = said(found)
            self.answers.put(key, {name: found[name] for name in KEPT if name in found})
            return answer

        return self._attempts.tried("POST", self.address.base + request.path, request.body, read, closing)
