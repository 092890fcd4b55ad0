"""A table: rows of named values, from a file or written in a config, each with the place that an error names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxalign.data.jsonl import RowError

Values = Mapping[str, Any]
"""What a row says, by column: strings, numbers, booleans, None, and lists and mappings of these; where a file has
texts alone, `Cell`s."""


class Cell(str):
    """The text of a file that has texts alone: a number or a boolean where one is asked for."""

    __slots__ = ()


@dataclass(frozen=True)
class Row:
    """One row. `values` is the reason where the row itself cannot be read, so that the rows behind it still can."""

    place: str
    """FILE:LINE, or FILE:ROW of files without lines, from 1"""
    values: Values | RowError


@runtime_checkable
class Table(Protocol):
    """Where rows come from: a frozen dataclass. `title` is what a person calls it."""

    @property
    def title(self) -> str: ...

    def rows(self) -> Iterator[Row]:
        """Every row in order, few of them in memory. DataError for what ends the reading: no file, a damaged one."""
        ...
