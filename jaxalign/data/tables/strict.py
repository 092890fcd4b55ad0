"""How strict a table is read: every bad row is found, named, and counted.

As with prompts, a file with bad rows is refused, each as FILE:LINE:FIELD: reason. Real files often have a few; `Skip`
leaves out as many as its share allows, and what was left out is told.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from jaxalign.data.jsonl import SHOWN, BadRows, RowError
from jaxalign.data.tables.table import Row, Table, Values
from jaxalign.errors import DataError

T = TypeVar("T")


@runtime_checkable
class OnBadRow(Protocol):
    """Whether a source with so many bad ones among so many rows may be used without them."""

    def allows(self, bad: int, rows: int) -> bool: ...


@dataclass(frozen=True)
class Stop:
    """A source with a bad row is refused."""

    def allows(self, bad: int, rows: int) -> bool:
        return bad == 0


@dataclass(frozen=True)
class Skip:
    """Bad rows are left out, up to a share of all; a source with more is refused."""

    share: float = 0.01
    """most bad rows, as a share of all rows"""

    def problems(self) -> Iterable[str]:
        if not 0 < self.share < 1:
            yield f"share must be between 0 and 1, got {self.share}"

    def allows(self, bad: int, rows: int) -> bool:
        return bad <= self.share * rows


class Tally:
    """What became of the rows while they were read: `rows` in all, `skipped` of them, the first of these in `shown`."""

    def __init__(self) -> None:
        self.rows, self.skipped, self.shown = 0, 0, list[str]()

    def add(self, rows: int, bad: BadRows) -> None:
        """Counts a source that was read to its end."""
        self.rows += rows
        self.skipped += bad.count
        self.shown = [*self.shown, *bad.shown][:SHOWN]


def converted(
    table: Table, convert: Callable[[str, Values], Iterable[T]], on_bad_row: OnBadRow, tally: Tally
) -> Iterator[T]:
    """What `convert(place, values)` makes of every row of a table; it raises RowError for a row it refuses.

    Bad rows end in one DataError after the last row, unless `on_bad_row` allows them.
    """
    refused, rows = BadRows(), 0
    for row in table.rows():
        rows += 1
        try:
            made = tuple(convert(row.place, _readable(row)))
        except RowError as error:
            refused.add(row.place, error)
        else:
            yield from made
    if rows == 0:
        raise DataError(f"{table.title}: no rows")
    if refused.count and not on_bad_row.allows(refused.count, rows):
        raise refused.error(
            table.title, rows, "" if isinstance(on_bad_row, Stop) else f", more than {on_bad_row} allows"
        )
    tally.add(rows, refused)


def _readable(row: Row) -> Values:
    if isinstance(row.values, RowError):
        raise row.values
    return row.values


EXAMPLES = (Stop(), Skip())
