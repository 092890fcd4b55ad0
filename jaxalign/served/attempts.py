"""One request until it is answered or given up: what it is tried again for, what ends a launch, what is told of it."""

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from jaxalign.errors import ServerError
from jaxalign.served import transport
from jaxalign.served.retries import OF_THIS_REQUEST, TRANSIENT, retry_after
from jaxalign.served.said import Garbage, excerpt, parsed
from jaxalign.served.server import Address, Server
from jaxalign.served.transport import Broken, Reply

T = TypeVar("T")

TOO_LONG = ("context length", "context size", "context window", "maximum context", "too long", "too many tokens")
"""How servers say that a request does not fit into the model's context."""


@dataclass(frozen=True)
class Failure:
    """Why there is no answer. `kind` is one of

    timed_out, unreachable, rate_limited, server_error, garbage    the server does not work, in spite of retries
    refused, too_long                                              it works, and will not answer this
    """

    kind: str
    sentence: str

    @property
    def of_server(self) -> bool:
        """Whether other requests would fail too."""
        return self.kind not in ("refused", "too_long")


@dataclass(frozen=True)
class Clock:
    """What a client knows of time and chance: seconds that only grow, seconds since 1970, a wait that an event cuts
    short (True if it did), draws from [0, 1)."""

    now: Callable[[], float] = time.monotonic
    date: Callable[[], float] = time.time
    wait: Callable[[float, threading.Event], bool] = lambda seconds, event: event.wait(seconds)
    uniform: Callable[[], float] = random.random


@dataclass(frozen=True)
class _Missed:
    """An attempt without an answer; `again` if another one may have one, `asked` seconds later at least."""

    failure: Failure
    again: bool
    asked: float = 0.0


class Attempts:
    """Sends the requests of one launch; `sent` counts them."""

    def __init__(self, server: Server, address: Address, clock: Clock):
        self.sent = 0
        self._server, self._address, self._clock = server, address, clock
        self._lock = threading.Lock()

    def tried(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        read: Callable[[Reply], T],
        closing: threading.Event,
    ) -> T | Failure:
        """What `read` makes of the reply to a request, which may raise Garbage; `closing` ends the wait for the next
        attempt. Raises ServerError for what every request would meet."""
        content = None if body is None else json.dumps(body).encode("ascii")
        for failed in range(1, self._server.retries.attempts + 1):
            self._spend()
            outcome = self._once(method, path, content, read)
            if not isinstance(outcome, _Missed):
                return outcome
            wait = self._server.retries.wait(failed, outcome.asked, self._clock.uniform()) if outcome.again else None
            if wait is None or self._clock.wait(wait, closing):
                return outcome.failure
        raise AssertionError("the last attempt has no next")

    def _spend(self) -> None:
        with self._lock:
            if self._server.max_requests is not None and self.sent >= self._server.max_requests:
                raise ServerError(
                    f"{self._address}: was sent {self.sent} requests, all that max_requests allows a launch; "
                    f"answers are kept. Run the same command again, or raise max_requests"
                )
            self.sent += 1

    def _once(self, method: str, path: str, body: bytes | None, read: Callable[[Reply], T]) -> T | _Missed:
        try:
            reply = transport.exchange(self._address, method, path, body, self._server.timeout_seconds, self._clock.now)
            if reply.status == 200:
                return read(reply)
            return self._missed(reply)
        except Broken as error:
            if error.kind == "untrusted":
                raise ServerError(f"{self._address}: {error}") from error
            return _Missed(Failure(error.kind, str(error)), again=True)
        except Garbage as error:
            return _Missed(Failure("garbage", f"its answer is none: {error}"), again=True)

    def _missed(self, reply: Reply) -> _Missed:
        """What a status other than 200 means. Raises ServerError for those that every request would meet."""
        sentence = f"it answered {reply.status}: {complaint(reply.body)}"
        if reply.status in TRANSIENT:
            kind = "rate_limited" if reply.status == 429 else "server_error"
            asked = retry_after(reply.headers.get("retry-after", ""), self._clock.date())
            if asked > self._server.retries.patience_seconds:
                sentence += f", and to come back in {asked:.0f} s, which is longer than patience_seconds"
            return _Missed(Failure(kind, sentence), again=True, asked=asked)
        if reply.status in OF_THIS_REQUEST:
            long = any(words in complaint(reply.body, 2000).lower() for words in TOO_LONG)
            return _Missed(Failure("too_long" if long else "refused", sentence), again=False)
        raise ServerError(f"{self._address}: {sentence}{remedy(reply, self._server)}")


def complaint(body: bytes, most: int = 200) -> str:
    """What a server says is wrong: the message in its JSON, or what there is."""
    text = body.decode(errors="replace")
    try:
        found = parsed(body)
    except Garbage:
        return excerpt(text, most)
    for value in (found.get("error"), found.get("message"), found.get("detail")):
        message = value.get("message") if isinstance(value, dict) else value
        if isinstance(message, str):
            return excerpt(message, most)
    return excerpt(text, most)


def remedy(reply: Reply, server: Server) -> str:
    """What to do about a status that every request meets."""
    if reply.status in (401, 403):
        named = f"the key in {server.key_variable}" if server.key_variable else "it wants a key: set key_variable"
        return f"; {named}" + (" is not the one it wants" if server.key_variable else "")
    if reply.status == 404:
        return f"; is url right up to /v1, and is {server.model!r} a model that it serves?"
    if 300 <= reply.status < 400:
        place = excerpt(reply.headers.get("location", "nowhere"))
        return f"; it redirects to {place}, which is not followed: a key would follow too"
    return ""
