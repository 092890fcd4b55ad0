"""A bucket: fake-gcs-server behind a proxy that can be as slow, forgetful and strict as a bucket is."""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

NAME = "bucket"


class Bucket(ThreadingHTTPServer):
    """The proxy. `every`: seconds that one object needs between two writes, else 429. `lag`: seconds that listings come
    behind. `silent`: nothing is taken any more (503). `lose`: names whose next write is made and its answer lost.
    `ends` is called in the place of the write that comes after `left` others."""

    daemon_threads = True

    def __init__(self, upstream: int):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.url = upstream, f"http://127.0.0.1:{self.server_address[1]}"
        self.every, self.lag, self.silent = 0.0, 0.0, False
        self.lose = set[str]()
        self.left, self.ends = -1, lambda: None
        self.born: dict[str, float] = {}
        self.written: dict[str, float] = {}
        self.counts = Counter[str]()
        self.refused = Counter[str]()
        self.guard = threading.Lock()

    def environment(self) -> dict[str, str]:
        """What makes gcsfs and TensorStore talk to this bucket."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks for credentials that nobody has here
        }

    def too_often(self, name: str) -> bool:
        """Counts a write; whether the object was written a moment ago."""
        with self.guard:
            now = time.monotonic()
            if now - self.written.get(name, -1e9) < self.every:
                self.refused[name] += 1
                return True
            self.written[name] = now
            self.born.setdefault(name, now)
            self.counts[name] += 1
            return False

    def counted_down(self) -> bool:
        """Whether this is the write that does not happen."""
        with self.guard:
            now, self.left = self.left == 0, self.left - 1
        if now:
            self.ends()
        return now

    def shown(self, listing: dict) -> dict:
        """A listing without what is younger than the lag."""
        young = {name for name, born in self.born.items() if time.monotonic() - born < self.lag}
        old = self.born.keys() - young
        items = [item for item in listing.get("items", []) if item["name"] not in young]
        prefixes = [
            prefix
            for prefix in listing.get("prefixes", [])
            if any(name.startswith(prefix) for name in old) or not any(name.startswith(prefix) for name in young)
        ]
        return {**listing, "items": items, "prefixes": prefixes}


class Handler(BaseHTTPRequestHandler):
    """Hands on one request."""

    server: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        with contextlib.suppress(ConnectionError):  # who asked has gone
            self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            body = b"".join(self._chunks())
        name = self._written(body)
        if self.server.silent:
            return self._say(503, b"{}")
        if name is not None and self.server.counted_down():
            return self._say(503, b"{}")
        if name is not None and self.server.too_often(name):
            return self._say(429, b'{"error": {"code": 429, "message": "rateLimitExceeded"}}')
        status, headers, content = self._upstream(body)
        if name in self.server.lose:
            self.server.lose.discard(name)
            return self._say(503, b"{}")
        if (
            self.command == "GET"
            and re.fullmatch(r"/storage/v1/b/[^/]+/o/?", urlsplit(self.path).path)
            and status == 200
        ):
            content = json.dumps(self.server.shown(json.loads(content))).encode()
        return self._say(status, content, headers)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = answer

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _written(self, body: bytes) -> str | None:
        """The object that a request writes."""
        parts = urlsplit(self.path)
        asked = parse_qs(parts.query)
        if self.command != "POST" or not parts.path.startswith(("/upload/", "/resumable/")):
            return None
        if "name" in asked:
            return asked["name"][0]
        found = re.search(rb'\{[^{}]*"name":.*?\}', body)
        return json.loads(found.group())["name"] if found else unquote(parts.path)

    def _upstream(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        with contextlib.closing(connection):
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOPS}
            connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
            found = connection.getresponse()
            return found.status, found.getheaders(), found.read()

    def _say(self, status: int, content: bytes, headers: list[tuple[str, str]] = []) -> None:  # noqa: B006
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in HOPS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


HOPS = ("content-length", "transfer-encoding", "connection", "host", "accept-encoding", "date", "server")


@contextlib.contextmanager
def serving(binary: str) -> Iterator[Bucket]:
    """A bucket called `NAME`, empty, for as long as the context lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bucket = Bucket(port)
    command = [binary, "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    addresses = ["-external-url", bucket.url, "-public-host", bucket.url.removeprefix("http://"), "-log-level", "error"]
    with subprocess.Popen(command + addresses, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        threading.Thread(target=bucket.serve_forever, daemon=True).start()
        try:
            _make(f"http://127.0.0.1:{port}")
            yield bucket
        finally:
            bucket.shutdown()
            bucket.server_close()
            server.terminate()


def _make(upstream: str) -> None:
    wanted = urllib.request.Request(
        f"{upstream}/storage/v1/b?project=none",
        json.dumps({"name": NAME}).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(100):
        try:
            urllib.request.urlopen(wanted).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the emulator does not start")
