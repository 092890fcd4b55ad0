"""A table written in the config itself: a few rows of one's own, for trials and tests."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from jaxalign.data import jsonl
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.table import Row


@dataclass(frozen=True)
class Inline:
    """Rows as JSON objects."""

    title: ClassVar[str] = "inline rows"
    lines: tuple[str, ...]
    """one JSON object each"""

    def rows(self) -> Iterator[Row]:
        """The lines, parsed as those of a file are."""
        for number, line in enumerate(self.lines, 1):
            place = f"{self.title}:{number}"
            try:
                yield Row(place, jsonl.parse_object(line.encode("utf-8", "surrogatepass")))
            except RowError as error:
                yield Row(place, error)


EXAMPLE = Inline(('{"prompt": "Why?", "chosen": "Because it is so.", "rejected": "No."}',))
