"""Files of JSON: one object a line, or one array of objects; plain or compressed."""

import codecs
import contextlib
import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

from jaxalign.data import jsonl
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.table import Row
from jaxalign.errors import DataError

PIECE = 1 << 16
"""Bytes of an array read at once."""


def json_lines(path: pathlib.Path, max_line_bytes: int) -> Iterator[Row]:
    """Rows of a file of one JSON object a line."""
    with opened(path) as file:
        jsonl.refuse_other(path, file.peek(64)[:64])
        for number, line in enumerate(jsonl.lines(file.readline, max_line_bytes), 1):
            yield row(f"{path}:{number}", line, max_line_bytes)


def json_file(path: pathlib.Path, max_line_bytes: int) -> Iterator[Row]:
    """Rows of a file whose first character tells whether it is an array or of one object a line."""
    with opened(path) as file:
        while (first := file.read(1)).isspace():
            pass
    yield from (json_array if first == b"[" else json_lines)(path, max_line_bytes)


def json_array(path: pathlib.Path, max_line_bytes: int) -> Iterator[Row]:
    """Rows of a file that is one JSON array of objects, each named by the line that it begins in.

    Where an element ends, Python's own parser says; what it cannot read ends the file, since nobody knows where the
    next element begins.
    """
    with opened(path) as file:
        text = _Buffer(file, max_line_bytes)
        try:
            yield from _elements(path, text, max_line_bytes)
        except RowError as error:
            raise DataError(f"{path}:{text.line}:{error}; what follows cannot be read") from None


def _elements(path: pathlib.Path, text: "_Buffer", longest: int) -> Iterator[Row]:
    text.expect("[")
    more = not text.accept("]")
    number, before = 0, 0
    while more:
        number, line, element = number + 1, text.line, text.element()
        place = f"{path}:{line}" if line > before else f"{path}:{line} element {number}"
        yield row(place, element.encode(), longest)
        before, more = line, text.accept(",")
        if not more:
            text.expect("]")
    if rest := text.rest():
        raise RowError("", f"{jsonl.quoted(rest)} behind the end of the array")


def row(place: str, content: bytes | None, longest: int) -> Row:
    """The row that a line or an element of an array is."""
    try:
        return Row(place, jsonl.parsed(content, longest))
    except RowError as error:
        return Row(place, error)


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Any]:
    """The bytes that `path` holds, a buffered reader that decompresses on the way. DataError for one that is compressed
    and whose name does not say so, and while the block reads a damaged one."""
    try:
        with contextlib.ExitStack() as stack:
            file: Any = stack.enter_context(_open(path))
            jsonl.refuse_compressed(path, file.peek(64)[:64])
            yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _open(path: pathlib.Path) -> io.BufferedIOBase:
    if path.suffix == ".gz":
        return gzip.GzipFile(path)
    if path.suffix == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path), "rb"), "zstd"), PIECE)
    return path.open("rb")


class _Buffer:
    """The text of a file, of which a little more than one element is held."""

    def __init__(self, file: io.BufferedIOBase, longest: int):
        self._file, self._longest = file, longest
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False
        self.line = 1

    def accept(self, mark: str) -> bool:
        """Whether the next character is `mark`, which is passed; and the space behind it."""
        self._space()
        found = self._text.startswith(mark, self._at)
        if found:
            self._at += len(mark)
            self._space()
        return found

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            found = jsonl.quoted(self._text[self._at : self._at + 20]) if self._at < len(self._text) else "the end"
            raise RowError("", f"{found} where {mark!r} belongs")

    def element(self) -> str:
        """The JSON of the element that begins here."""
        self._fill(self._longest + 1)
        try:
            _, end = self._parse(self._text, self._at)
        except RecursionError:
            raise RowError("", "nested too deeply") from None
        except json.JSONDecodeError as error:
            if len(self._text) - self._at > self._longest:
                raise RowError("", f"no element that ends within {self._longest} bytes") from None
            raise RowError("", f"not JSON: {error.msg}") from None
        except ValueError:
            raise RowError("", "an integer of too many digits") from None
        found = self._text[self._at : end]
        self._pass(end)
        return found

    def rest(self) -> str:
        """The beginning of what is left."""
        self._space()
        return self._text[self._at :]

    def _pass(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _space(self) -> None:
        while True:
            self._fill(1)
            end = self._at
            while end < len(self._text) and self._text[end] in " \t\r\n":
                end += 1
            self._pass(end)
            if end < len(self._text) or self._ended:
                return

    def _fill(self, count: int) -> None:
        """Reads until `count` characters lie ahead or the file ends."""
        if len(self._text) - self._at >= count or self._ended:
            return
        pieces = [self._text[self._at :]]
        held = len(pieces[0])
        while held < 2 * count + PIECE and not self._ended:
            read = self._file.read(PIECE)
            self._ended = not read
            try:
                pieces.append(self._decode(read, final=self._ended))
            except UnicodeDecodeError as error:
                raise RowError("", f"not UTF-8: byte 0x{error.object[error.start]:02x} in this line or below") from None
            held += len(pieces[-1])
        self._text, self._at = "".join(pieces), 0
