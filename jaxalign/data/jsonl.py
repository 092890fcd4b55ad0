"""Strict JSON Lines: every bad row is found and named before anything is computed.

A line ends at LF alone (U+2028 and its kin are text), and no more than one line of the permitted length is held in
memory. Python's parser alone is not enough: it accepts NaN, infinities, duplicate keys and lone surrogates, and it
refuses the rest with four kinds of exception.
"""

import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from jaxalign.errors import DataError

T = TypeVar("T")

ROLES = ("system", "user", "assistant")

COMPRESSED = {b"\x1f\x8b": "gunzip", b"\x28\xb5\x2f\xfd": "zstd -d", b"PK\x03\x04": "unzip"}
"""What decompresses a file, by its first bytes."""
TURNED = (
    *("tool_calls", "function_call", "tool_call_id", "reasoning_content", "reasoning", "thinking"),
    *("name", "images", "image", "audio", "videos", "documents"),
)
"""What templates write of a message beside its content."""
SHOWN = 20
"""Bad rows written out in one error; further ones are counted."""


class RowError(Exception):
    """Why one row cannot be used; `field` is empty where the whole line is at fault."""

    def __init__(self, field: str, reason: str):
        super().__init__(f"{field}: {reason}" if field else f" {reason}")


class _NonFinite(str):
    """What the file has where a finite number belongs: NaN, Infinity or a number beyond the floats."""


def read(path: pathlib.Path, max_line_bytes: int, convert: Callable[[int, dict[str, Any]], T]) -> Iterator[T]:
    """`convert(line number, object)` of every line in order; it raises RowError for a row it refuses.

    Good rows are yielded as they come, and bad ones end in one DataError after the last line, each as
    FILE:LINE:FIELD: reason. Rows may therefore be kept only when the iterator came to its end.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    refused, number = BadRows(), 0
    try:
        with path.open("rb") as file:
            refuse_other(path, file.read(64))
            file.seek(0)
            for number, line in enumerate(lines(file.readline, max_line_bytes), 1):
                try:
                    row = convert(number, parsed(line, max_line_bytes))
                except RowError as error:
                    refused.add(f"{path}:{number}", error)
                else:
                    yield row
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if number == 0:
        raise DataError(f"{path}: empty file")
    if refused.count:
        raise refused.error(str(path), number)


def refuse_other(path: pathlib.Path, begin: bytes) -> None:
    """Raises DataError for a file that is none of lines, which would be as many bad rows as it has lines."""
    refuse_compressed(path, begin)
    if begin.lstrip().startswith(b"["):
        raise DataError(f"{path}: begins as a JSON array; write one object a line: jq -c '.[]' FILE > FILE.jsonl")


def refuse_compressed(path: pathlib.Path, begin: bytes) -> None:
    """Raises DataError for a file that begins as a compressed one does."""
    for mark, remedy in COMPRESSED.items():
        if begin.startswith(mark):
            raise DataError(f"{path}: is compressed; {remedy} gives what is read")


class BadRows:
    """Refused rows as they are met: the first `SHOWN` as FILE:LINE:FIELD: reason, further ones counted."""

    def __init__(self) -> None:
        self.count, self.shown = 0, list[str]()

    def add(self, place: str, error: RowError) -> None:
        """One more row that cannot be read; the first `SHOWN` are kept in full for the report."""
        if self.count < SHOWN:
            self.shown.append(f"{place}:{error}")
        self.count += 1

    def error(self, where: str, rows: int, why: str = "") -> DataError:
        """What is raised of `rows` rows among which these are."""
        more = [f"… and {self.count - SHOWN} more bad rows"] if self.count > SHOWN else []
        return DataError("\n".join([f"{where}: {self.count} bad rows of {rows}{why}", *self.shown, *more]))


def parsed(line: bytes | None, max_line_bytes: int) -> dict[str, Any]:
    """The object of one of `lines`. RowError as `parse_object`, and for a line that was too long."""
    if line is None or len(line) > max_line_bytes:
        raise RowError("", f"line longer than {max_line_bytes} bytes")
    return parse_object(line)


def parse_object(line: bytes) -> dict[str, Any]:
    """The JSON object a line holds. RowError for anything that strict JSON in UTF-8 does not allow."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise RowError("", f"not UTF-8: byte 0x{line[error.start]:02x} in column {error.start + 1}") from None
    if text.startswith("\ufeff"):
        raise RowError("", "begins with a byte order mark; save the file as UTF-8 without one")
    try:
        row = json.loads(text, object_pairs_hook=_unique, parse_constant=_NonFinite, parse_float=_finite)
        if not isinstance(row, dict):
            raise RowError("", f"{kind(row)} where an object belongs")
        _refuse_non_finite(row, "")
    except RecursionError:
        raise RowError("", "nested too deeply") from None
    except json.JSONDecodeError as error:
        raise RowError("", f"not JSON: {error.msg} in column {error.colno}" if text.strip() else "blank line") from None
    except ValueError:  # Python refuses to convert integers of more than some thousand digits
        raise RowError("", "an integer of too many digits") from None
    return row


def check_string(value: Any, field: str) -> str:
    """`value`, if it is a string that can be encoded, be it empty; RowError otherwise."""
    if not isinstance(value, str):
        raise RowError(field, f"{kind(value)} where a string belongs")
    if "\0" in value:
        raise RowError(field, f"NUL character at {value.index(chr(0)) + 1}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(field, f"lone surrogate at character {error.start + 1}") from None
    return value


def check_text(value: Any, field: str) -> str:
    """`value`, if it is a string that says something and can be encoded; RowError otherwise."""
    if not check_string(value, field).strip():
        raise RowError(field, "blank" if value else "empty")
    return value


def check_messages(messages: Any, field: str) -> tuple[Mapping[str, str], ...]:
    """Messages of known roles, each with a text and the last one the user's; RowError otherwise."""
    checked = tuple(check_message(message, place) for message, place in listed(messages, field))
    if checked[-1]["role"] != "user":
        raise RowError(f"{field}[{len(checked) - 1}].role", f"the last message is the {checked[-1]['role']}'s")
    return checked


def listed(messages: Any, field: str) -> list[tuple[Any, str]]:
    """The items of an array that has some, each with its place; RowError otherwise."""
    if not isinstance(messages, list) or not messages:
        raise RowError(field, "empty" if messages == [] else f"{kind(messages)} where an array belongs")
    return [(message, f"{field}[{index}]") for index, message in enumerate(messages)]


def check_message(message: Any, where: str, said: Callable[[Any, str], str] = check_text) -> Mapping[str, str]:
    """A message of a known role whose content `said` accepts; RowError otherwise."""
    if not isinstance(message, dict):
        raise RowError(where, f"{kind(message)} where an object belongs")
    for name in ("role", "content"):
        if name not in message:
            raise RowError(f"{where}.{name}", "missing")
    for name in TURNED:
        if message.get(name):
            raise RowError(f"{where}.{name}", "would be left out: only role and content are read")
    role = check_text(message["role"], f"{where}.role")
    if role not in ROLES:
        raise RowError(f"{where}.role", f"{quoted(role)} is none of {', '.join(ROLES)}")
    return {"role": role, "content": said(message["content"], f"{where}.content")}


def check_tools(tools: Any, field: str) -> str:
    """The JSON of an array of objects, or nothing for null or an empty one; RowError otherwise."""
    if tools is not None and not isinstance(tools, list):
        raise RowError(field, f"{kind(tools)} where an array belongs")
    for index, tool in enumerate(tools or ()):
        if not isinstance(tool, dict):
            raise RowError(f"{field}[{index}]", f"{kind(tool)} where an object belongs")
    return check_text(json.dumps(tools, ensure_ascii=False), field) if tools else ""


def kind(value: Any) -> str:
    """What JSON calls the type of a parsed value."""
    if isinstance(value, _NonFinite):
        return "number"
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return next((name for each, name in names.items() if isinstance(value, each)), "number")


def quoted(text: str) -> str:
    """Text from a file, shortened and escaped, for a message."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


def lines(readline: Callable[[int], bytes], limit: int) -> Iterator[bytes | None]:
    """Lines of a file without their LF; None in place of one of more than `limit` bytes, which is skipped in pieces.

    Blank lines are those of a file that goes on: editors and other writers leave some at the end.
    """
    blank = 0
    for line in _lines(readline, limit):
        if line is not None and not line.strip():
            blank += 1
            continue
        yield from (b"" for _ in range(blank))
        blank = 0
        yield line


def _lines(readline: Callable[[int], bytes], limit: int) -> Iterator[bytes | None]:
    while line := readline(limit + 1):
        if line.endswith(b"\n"):
            yield line[:-1]
        elif len(line) <= limit:
            yield line
        else:
            while line and not line.endswith(b"\n"):
                line = readline(limit + 1)
            yield None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise RowError(_name(key), "appears twice in one object")
        made[key] = value
    return made


def _finite(digits: str) -> float | _NonFinite:
    number = float(digits)
    return number if math.isfinite(number) else _NonFinite(digits)


def _refuse_non_finite(value: Any, field: str) -> None:
    if isinstance(value, _NonFinite):
        raise RowError(field, f"{value[:40]} is not a finite number")
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_non_finite(inner, f"{field}.{_name(key)}" if field else _name(key))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_non_finite(inner, f"{field}[{index}]")


def _name(key: str) -> str:
    return key if key.isprintable() and 0 < len(key) <= 40 else quoted(key)
