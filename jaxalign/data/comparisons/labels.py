"""How a row says which of its two answers is better: P(first ≻ second), in the order in which the file has them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from jaxalign.data import jsonl
from jaxalign.data.comparisons import fields
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.table import Cell, Values


@runtime_checkable
class Label(Protocol):
    """(row) → P(first ≻ second) in [0, 1], None where the row says nothing. RowError for what is no label.

    `field` is the key that is read. `ordered`: the label says more than the order of the answers, so that it can be
    counted how often the first one wins.
    """

    ordered: ClassVar[bool]

    @property
    def field(self) -> str: ...

    def __call__(self, row: Values) -> float | None: ...


@dataclass(frozen=True)
class First:
    """The first answer is the better one: files of chosen and rejected answers."""

    ordered: ClassVar[bool] = False
    field: str = ""
    """key of a boolean that is true where neither is better; empty: there are no ties"""

    def __call__(self, row: Values) -> float:
        tie = fields.plain(fields.optional(row, self.field))
        if tie is not None and not isinstance(tie, bool):
            raise RowError(self.field, f"{jsonl.kind(tie)} where a boolean belongs")
        return 0.5 if tie else 1.0


@dataclass(frozen=True)
class Soft:
    """A probability that one of the two is better, as judges that are language models give it."""

    ordered: ClassVar[bool] = True
    field: str
    """key of a number in [0, 1]"""
    better: Literal["first", "second"]
    """which answer it is the probability of"""

    def __call__(self, row: Values) -> float | None:
        found = fields.value(row, self.field)
        if found is None:
            return None
        share = fields.number(found, self.field, 0.0, 1.0)
        return share if self.better == "first" else 1 - share


@dataclass(frozen=True)
class Choice:
    """One of three words or numbers: the first, the second, a tie."""

    ordered: ClassVar[bool] = True
    field: str
    """key of the choice"""
    first: int | str = 1
    """what is written where the first answer is better"""
    second: int | str = 2
    """what is written where the second answer is better"""
    tie: int | str | None = None
    """what is written where neither is; None: ties are not allowed"""

    def problems(self) -> Iterable[str]:
        written = [word for word in (self.first, self.second, self.tie) if word is not None]
        if len(set(written)) < len(written):
            yield f"first, second and tie must differ, got {', '.join(map(repr, written))}"

    def __call__(self, row: Values) -> float | None:
        found = fields.value(row, self.field)
        if found is None:
            return None
        read = fields.plain(found)
        if type(read) is float and read.is_integer():  # a column of integers with holes is one of floats
            read = int(read)
        ways = (read, str(found)) if isinstance(found, Cell) else (read,)
        for word, share in ((self.first, 1.0), (self.second, 0.0), (self.tie, 0.5)):
            if word is not None and any(type(way) is type(word) and way == word for way in ways):
                return share
        words = ", ".join(repr(word) for word in (self.first, self.second, self.tie) if word is not None)
        shown = jsonl.quoted(found) if isinstance(found, str) else str(found)[:40]
        raise RowError(self.field, f"{shown} is none of {words}")


def needed(label: Label, row: Values) -> float:
    """What the label says of the row; RowError where it says nothing."""
    if (found := label(row)) is None:
        raise RowError(label.field, "missing or null")
    return found


EXAMPLES = (First(), Soft("p2", "second"), Choice("label", tie=0))
