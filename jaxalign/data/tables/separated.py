"""Files of comma- or tab-separated values (RFC 4180) whose first record names the columns; plain or compressed."""

import csv
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator

from jaxalign.data import jsonl
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.table import Cell, Row
from jaxalign.data.tables.text_files import opened
from jaxalign.errors import DataError


def commas(path: pathlib.Path, max_line_bytes: int) -> Iterator[Row]:
    """Rows of a file whose values are separated by commas."""
    return _rows(path, max_line_bytes, ",")


def tabs(path: pathlib.Path, max_line_bytes: int) -> Iterator[Row]:
    """Rows of a file whose values are separated by tabs."""
    return _rows(path, max_line_bytes, "\t")


def _rows(path: pathlib.Path, longest: int, separator: str) -> Iterator[Row]:
    """Every record behind the header, named by the line that it begins in; an empty cell is null, a blank line none.

    A record that cannot be parsed ends the file, since nobody knows where the next one begins.
    """
    csv.field_size_limit(max(csv.field_size_limit(), longest))
    with opened(path) as file:
        text = _Lines(file.readline, longest)
        records = csv.reader(text, delimiter=separator, strict=True)
        begin = 1
        try:
            names = _header(next(records, []))
            text.held = 0
            begin = records.line_num + 1
            for cells in records:
                if cells:
                    yield Row(f"{path}:{begin}", _values(names, cells))
                text.held = 0
                begin = records.line_num + 1
        except (RowError, csv.Error) as error:
            reason = error if isinstance(error, RowError) else f" {error}"
            raise DataError(f"{path}:{begin}:{reason}; what follows cannot be read") from None


class _Lines:
    """Lines of a file as texts, as long as the record that they are in stays within the limit; `held`: its bytes."""

    def __init__(self, readline: Callable[[int], bytes], longest: int):
        self._readline, self._longest, self._first, self.held = readline, longest, True, 0

    def __iter__(self) -> Iterator[str]:
        while line := self._readline(max(self._longest + 2 - self.held, 1)):
            held, self.held = self.held, self.held + len(line)
            if held + len(line.rstrip(b"\r\n")) > self._longest:
                raise RowError("", f"no record that ends within {self._longest} bytes")
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise RowError("", f"not UTF-8: byte 0x{line[error.start]:02x} in this record") from None
            yield text.removeprefix("\ufeff") if self._first else text
            self._first = False


def _header(names: list[str]) -> list[str]:
    """The columns' names; a nameless one in front, as pandas writes rows' numbers, is left out of rows."""
    if not names:
        raise RowError("", "no header: the first line names the columns")
    for number, (name, count) in enumerate(Counter(names).items()):
        if count > 1 and name.strip():
            raise RowError("", f"{jsonl.quoted(name)} names two columns")
        if (number or count > 1) and not name.strip():
            raise RowError("", "a column behind the first one has no name")
    return names


def _values(names: list[str], cells: list[str]) -> dict[str, Cell | None] | RowError:
    if len(cells) != len(names):
        return RowError("", f"{len(cells)} cells under a header of {len(names)}")
    return {name: Cell(cell) if cell else None for name, cell in zip(names, cells, strict=True) if name.strip()}
