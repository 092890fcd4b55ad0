"""Answers kept on disk by what was asked, so that nothing is asked twice, whatever happens to the run in between.

    DIR/<time>-<process>-<random>.jsonl    {"key": …, "sha256": …, "answer": {…}}, one line an answer, appended

Each launch writes one file of its own and reads all, so several may share a directory, on any file system, without
locks. A line is written with one call when its answer comes: a process that is killed loses at most the line it was
writing, a machine that loses its power those of the last seconds. Lines that are torn or damaged are left out, counted,
and asked again.
"""

import errno
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from etils import epath

from jaxalign.errors import ConfigError
from jaxalign.storage import durable

Place = tuple[Path, int, int]
"""File, first byte and bytes of a line."""


def key_of(*parts: Any) -> str:
    """SHA-256 of what decides an answer, as JSON."""
    return hashlib.sha256(_canonical(list(parts))).hexdigest()


class Answers:
    """The answers in a directory, which is made when there is none. `torn` counts lines that cannot be read.

    Raises ConfigError for a directory that cannot be read, CheckpointError when the disk refuses an answer.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = Path(directory).expanduser().absolute()
        self.torn = 0
        self._places: dict[str, Place] = {}
        self._lock = threading.Lock()
        self._own: Any = None
        try:
            for file in sorted(self.directory.glob("*.jsonl")):
                self._read(file)
        except OSError as error:
            raise ConfigError(f"{self.directory}: answers cannot be read: {error.strerror or error}") from error

    def __enter__(self) -> "Answers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The answer to what has this key, if there is one and it is whole."""
        place = self._places.get(key)
        if place is None:
            return None
        file, start, size = place
        try:
            with open(file, "rb") as lines:
                lines.seek(start)
                found = _entry(lines.read(size))
        except OSError:
            found = None
        if found is None or found[0] != key:  # somebody has deleted or changed the file since
            self.forget(key)
            return None
        return found[1]

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Keeps an answer."""
        content = {"key": key, "sha256": hashlib.sha256(_canonical(answer)).hexdigest(), "answer": answer}
        line = _canonical(content) + b"\n"
        with self._lock, durable.storage_errors(epath.Path(self.directory), len(line)):
            self._own = self._own or self._created()
            start = self._own.tell()
            try:
                if self._own.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self._own.truncate(self._own.seek(start))  # a torn line would hold room, and spoil the next one
                raise
            self._places[key] = (Path(self._own.name), start, len(line))

    def forget(self, key: str) -> None:
        """Of an answer that turns out to be none; it is counted as torn."""
        with self._lock:
            self.torn += self._places.pop(key, None) is not None

    def close(self) -> None:
        """Syncs and closes the file."""
        with self._lock:
            if self._own is not None:
                with durable.storage_errors(epath.Path(self.directory), 0):
                    os.fsync(self._own.fileno())
                self._own.close()
                self._own = None

    def _created(self) -> Any:
        durable.make_directory(epath.Path(self.directory))
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        return open(self.directory / name, "xb", buffering=0)  # unbuffered: a line is one write

    def _read(self, file: Path) -> None:
        start = 0
        with open(file, "rb") as lines:
            for line in lines:
                found = _entry(line)
                if found is None:
                    self.torn += 1
                else:
                    self._places[found[0]] = (file, start, len(line))
                start += len(line)


def _entry(line: bytes) -> tuple[str, dict[str, Any]] | None:
    """Key and answer of a line; None unless it is whole."""
    try:
        content = json.loads(line)
        key, answer = content["key"], content["answer"]
        whole = line.endswith(b"\n") and content["sha256"] == hashlib.sha256(_canonical(answer)).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (key, answer) if whole and isinstance(key, str) and isinstance(answer, dict) else None


def _canonical(value: Any) -> bytes:
    """The same bytes for equal values; texts may hold lone surrogates, which no UTF-8 has."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")
