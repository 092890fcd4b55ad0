"""A server in this process that answers as it is told to: well, badly, late, in halves, or not at all."""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jaxalign.served.attempts import Clock, Failure
from jaxalign.served.client import Client, Request
from jaxalign.served.retries import Retries
from jaxalign.served.said import Said
from jaxalign.served.server import Server
from jaxalign.types import StopRequested


@dataclass(frozen=True)
class Asked:
    """One request as it came in; `nth` counts from 0."""

    method: str
    path: str
    body: Any
    headers: Mapping[str, str]
    nth: int

    @property
    def text(self) -> str:
        """What the user of a chat says last, or the prompt of a completion."""
        return self.body["messages"][-1]["content"] if "messages" in self.body else self.body["prompt"]


@dataclass(frozen=True)
class Given:
    """What goes back. `cut`: bytes of it after which the connection ends; `hang`: it stays open and silent then."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    hang: bool = False


Script = Callable[[Asked], Given]


class Made(ThreadingHTTPServer):
    """The server; `asked` are all requests so far and `most` how many it had at once."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, script: Script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked, self.most, self.closing = script, [], 0, threading.Event()
        self.lock, self.now, self.failed = threading.Lock(), 0, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error; anything else is one of the test's script."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            self.failed.append(error)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Made

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
            body = json.loads(content) if content else None
            asked = Asked(self.command, self.path, body, dict(self.headers), len(self.server.asked))
            self.server.asked.append(asked)
        try:
            self.send(self.server.script(asked))
        finally:
            with self.server.lock:
                self.server.now -= 1

    do_GET = do_POST

    def send(self, given: Given) -> None:
        self.close_connection = True
        self.send_response_only(given.status)
        for name, value in ({"Content-Length": str(len(given.body))} | dict(given.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(given.body[: given.cut])
        if given.hang:
            self.server.closing.wait(60)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def served(script: Script) -> Iterator[Made]:
    """A server that answers by the script."""
    with Made(script) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.closing.set()
            made.shutdown()
            thread.join()
            for problem in made.failed:
                raise problem


# ----------------------------------------------------------------------------------------------------------------------
# What is told to it


def json_of(content: Any, status: int = 200, **headers: str) -> Given:
    return Given(
        status, json.dumps(content).encode(), {name.replace("_", "-"): value for name, value in headers.items()}
    )


def chat(text: str | None, top: list[Mapping[str, float]] | None = None, tokens: list[str] | None = None) -> Given:
    """A chat's answer, with log-probs where `top` lists those of the likeliest tokens in each token's place."""
    logprobs = None
    if top is not None:
        listed = zip(tokens or [text], top, strict=True)
        logprobs = {
            "content": [
                {
                    "token": token,
                    "logprob": others.get(token),
                    "top_logprobs": [{"token": other, "logprob": logp} for other, logp in others.items()],
                }
                for token, others in listed
            ]
        }
    message = {"role": "assistant", "content": text}
    return json_of({"choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}]})


def error(status: int, message: str, **headers: str) -> Given:
    return json_of({"error": {"message": message, "type": "error"}}, status, **headers)


def in_turn(*given: Given, then: Script) -> Script:
    """The first requests get what is given, all others what `then` says."""
    return lambda asked: given[asked.nth] if asked.nth < len(given) else then(asked)


class Waits:
    """A clock that never waits, and lists what it was asked to wait. `now` stands still unless told otherwise."""

    def __init__(self, uniform: float = 0.5, date: float = 1_000_000_000.0, now: Callable[[], float] = lambda: 0.0):
        self.seconds: list[float] = []
        self.clock = Clock(now, lambda: date, self.wait, lambda: uniform)

    def wait(self, seconds: float, event: threading.Event) -> bool:
        self.seconds.append(seconds)
        return event.is_set()


def server_at(made: Made, answers: Any, **changes: Any) -> Server:
    """How a config names it."""
    given = {"timeout_seconds": 30.0, "retries": Retries(attempts=3), "concurrency": 1} | changes
    return Server(made.url, "judge", str(answers), **given)


@contextmanager
def asking(
    script: Script, answers: Any, clock: Clock | None = None, stop: StopRequested = lambda: False, **changes: Any
) -> Iterator[tuple[Made, Client]]:
    """A server that answers by the script and a client of it, which does not wait."""
    with served(script) as made, Client(server_at(made, answers, **changes), stop, clock or Waits().clock) as client:
        yield made, client


def question(text: str) -> Request:
    return Request("/chat/completions", {"model": "judge", "messages": [{"role": "user", "content": text}]})


def echo(asked: Asked) -> Given:
    return chat(f"re: {asked.text}")


def asked_of(client: Client, *texts: str) -> list[Said | Failure]:
    """What came of the questions, in their order."""
    found = dict(client.ask([question(text) for text in texts]))
    assert sorted(found) == list(range(len(texts)))
    return [found[number] for number in range(len(texts))]
