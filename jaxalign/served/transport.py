"""One HTTP request and its reply, on a connection of its own, until a deadline.

The standard library's client is enough, and does nothing by itself: it follows no redirect, sends nothing a second
time, and asks no environment variable for a proxy. Certificates are checked against the system's; SSL_CERT_FILE names
others. Time-outs of sockets begin again with each byte, so a server that sends one a minute would never be late: here
every read has what is left until the deadline.
"""

import functools
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxalign.served.server import Address

LARGEST = 64 * 2**20
"""Bytes of a reply, headers included; the answer of 100,000 tokens with 20 log-probs each is smaller."""


@dataclass(frozen=True)
class Reply:
    """What a server sent; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Broken(Exception):
    """There is no whole reply. `kind` is "timed_out", "unreachable" or, for what it makes no sense to try again,
    "untrusted"."""

    def __init__(self, kind: str, sentence: str):
        super().__init__(sentence)
        self.kind = kind


def exchange(
    address: Address,
    method: str,
    path: str,
    body: bytes | None,
    seconds: float,
    now: Callable[[], float] = time.monotonic,
) -> Reply:
    """The reply to a request for `path`, which begins with "/". Raises Broken unless it is whole within `seconds`."""
    until = Until(now() + seconds, now)
    connection = _connection(address, until)
    headers = {"Content-Type": "application/json", "Accept": "application/json", **address.secret.headers}
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, address.secret.without(response.read()))
    except TimeoutError as error:
        raise Broken("timed_out", f"no whole answer within {seconds:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise Broken("untrusted", f"its certificate is not trusted: {error.verify_message}") from error
    except http.client.IncompleteRead as error:
        raise Broken("unreachable", f"the connection ended after {len(error.partial)} bytes of an answer") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: sizes of chunks that are no numbers
        raise Broken("unreachable", f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


class Until:
    """A deadline."""

    def __init__(self, end: float, now: Callable[[], float]):
        self._end, self._now = end, now

    def left(self) -> float:
        """Seconds, more than 0. Raises TimeoutError when there are none."""
        seconds = self._end - self._now()
        if seconds <= 0:
            raise TimeoutError
        return seconds


class Reading(io.RawIOBase):
    """What comes in on a socket, until a deadline, LARGEST bytes at most."""

    def __init__(self, socket: socket.socket, until: Until):
        self._socket, self._until, self._room = socket, until, LARGEST
        self._raw = socket.makefile("rb", buffering=0)  # keeps the socket when the connection has let go of it

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As sockets do."""
        self._socket.settimeout(self._until.left())
        count = self._raw.readinto(buffer) or 0
        self._room -= count
        if self._room < 0:
            raise http.client.HTTPException(f"an answer of more than {LARGEST} bytes")
        return count

    def close(self) -> None:
        """Lets go of the socket."""
        self._raw.close()
        super().close()


class Incoming:
    """What the standard library makes a response of, in place of the socket."""

    def __init__(self, until: Until, socket: socket.socket):
        self._until, self._socket = until, socket

    def makefile(self, mode: str) -> io.BufferedReader:
        """The bytes of the response."""
        return io.BufferedReader(Reading(self._socket, self._until))


def _connection(address: Address, until: Until) -> http.client.HTTPConnection:
    made: http.client.HTTPConnection
    if address.secure:
        context = ssl.create_default_context()
        made = http.client.HTTPSConnection(address.host, address.port, timeout=until.left(), context=context)
    else:
        made = http.client.HTTPConnection(address.host, address.port, timeout=until.left())
    incoming = functools.partial(Incoming, until)

    def response(socket: socket.socket, method: str | None) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(incoming(socket), method=method)  # type: ignore[arg-type]

    made.response_class = response  # type: ignore[assignment]
    return made
