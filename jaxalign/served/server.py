"""A server that speaks OpenAI's HTTP interface, as a config names it: vLLM, SGLang, llama.cpp, a company's.

    Server(
        url="http://localhost:8000/v1",
        model="judge-8b",
        answers="runs/answers",
        key_variable="JUDGE_KEY",  # for those that want a key; nothing else of it is ever written down
    )

What was answered is kept in `answers`, by what was asked: a run that goes on asks nothing twice, and another run that
asks the same does not ask either. The address is not among what was asked, so the server may move: `url="$JUDGE_URL"`
is read from the environment by each launch.
"""

import math
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxalign.errors import ConfigError
from jaxalign.served.retries import Retries
from jaxalign.served.secret import Secret

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
AT_HOME = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Server:
    """Where a model is served, under which name, and how hard it is asked."""

    url: str
    """up to and with /v1, or $NAME of the environment variable that holds it"""
    model: str
    """the name that the server knows it by"""
    answers: str
    """directory that answers are kept in; several runs may share one"""
    key_variable: str = ""
    """name of the environment variable with the API key; empty: none is sent"""
    concurrency: int = 8
    """most requests on their way at once, of each process"""
    timeout_seconds: float = 120.0
    """for one request, from connecting to the last byte"""
    retries: Retries = Retries()
    """what is tried again, and when"""
    max_requests: int | None = None
    """most requests that one launch may send, those that fail included; None: no limit"""
    max_failures: int = 20
    """requests given up, in spite of retries, that end a launch"""

    def problems(self) -> Iterable[str]:
        if not self.url.startswith("$"):
            yield from url_problems(self.url, bool(self.key_variable))
        elif not NAME.fullmatch(self.url[1:]):
            yield "url is no $NAME of an environment variable"
        if self.key_variable and not NAME.fullmatch(self.key_variable):
            yield "key_variable must be the name of an environment variable, and never the key itself"
        for name in ("model", "answers"):
            if not getattr(self, name):
                yield f"{name} must not be empty"
        for name, value in (("concurrency", self.concurrency), ("max_failures", self.max_failures)):
            if value < 1:
                yield f"{name} must be at least 1, got {value}"
        if self.max_requests is not None and self.max_requests < 1:
            yield f"max_requests must be at least 1 or None, got {self.max_requests}"
        if not 0 < self.timeout_seconds < math.inf:
            yield f"timeout_seconds must be positive and finite, got {self.timeout_seconds}"

    def address(self, environment: Mapping[str, str] = os.environ) -> "Address":
        """Where requests go, and with which key. ConfigError, which shows neither, when a variable is not set."""
        url = self.url
        if url.startswith("$"):
            url = _variable(environment, url[1:], "url")
            if found := list(url_problems(url, bool(self.key_variable))):
                raise ConfigError(f"environment variable {self.url[1:]}: {found[0]}")
        secret = Secret("")
        if self.key_variable:
            secret = Secret(_variable(environment, self.key_variable, "key_variable"))
            if not secret.sendable:
                raise ConfigError(f"environment variable {self.key_variable}: holds white space, and no key does")
        return Address(*_parts(url), secret)


@dataclass(frozen=True)
class Address:
    """A place to send requests to; `base` is the path of its root, with /v1."""

    secure: bool
    host: str
    port: int
    base: str
    secret: Secret

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.base}"


def url_problems(url: str, keyed: bool) -> Iterable[str]:
    """What is wrong with the address of a server that is sent a key or not. The address may hold a password, so what
    it is stands nowhere in the sentences."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        yield f"url is none: {error}"
        return
    if parts.scheme not in ("http", "https") or not host:
        yield "url must be http://HOST:PORT/v1 or https://HOST/v1"
    if parts.username is not None or parts.password is not None:
        yield "url must hold no user and no password: name an environment variable with a key"
    if parts.query or parts.fragment:
        yield "url must end with its path, without ? and #"
    if keyed and parts.scheme == "http" and host not in AT_HOME:
        yield "url must be https where a key is sent, but on this machine: others could read the key on its way"


def _parts(url: str) -> tuple[bool, str, int, str]:
    parts = urllib.parse.urlsplit(url)
    secure = parts.scheme == "https"
    return secure, parts.hostname or "", parts.port or (443 if secure else 80), parts.path.rstrip("/")


def _variable(environment: Mapping[str, str], name: str, field: str) -> str:
    if not environment.get(name):
        raise ConfigError(f"environment variable {name} is not set, and {field} reads it; export it and run again")
    return environment[name]
