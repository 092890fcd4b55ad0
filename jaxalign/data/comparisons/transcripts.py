"""Transcripts: whole conversations written as one text, which part only in the last answer.

The format of HH-RLHF (Bai et al. 2022, arXiv 2204.05862): "\\n\\nHuman: …\\n\\nAssistant: …". What is said before the
last turn is the prompt, and must be the same in both.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from jaxalign.data import jsonl
from jaxalign.data.comparisons import fields, labels
from jaxalign.data.comparisons.labels import First, Label
from jaxalign.data.comparisons.pairs import answer_problems
from jaxalign.data.comparisons.record import Comparison, Message, chosen_first
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import OnBadRow, Stop, Tally, converted
from jaxalign.data.tables.table import Table, Values
from jaxalign.types import Prompt


@dataclass(frozen=True)
class Transcripts:
    """One pair of transcripts a row. Space around turns is no part of them."""

    responses: ClassVar[int] = 2
    table: Table
    """the rows"""
    answers: tuple[str, str] = ("chosen", "rejected")
    """keys of the two transcripts"""
    label: Label = First()
    """which of them is better"""
    human: str = "\n\nHuman:"
    """what begins a turn of the user"""
    assistant: str = "\n\nAssistant:"
    """what begins a turn of the assistant"""
    on_bad_row: OnBadRow = Stop()
    """what becomes of a file with bad rows"""

    def problems(self) -> Iterable[str]:
        yield from answer_problems(self.answers)
        if not self.human or not self.assistant or self.human == self.assistant:
            yield f"human and assistant must be two texts, got {self.human!r} and {self.assistant!r}"

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The pairs."""
        return converted(self.table, self._pair, self.on_bad_row, tally)

    def _pair(self, place: str, row: Values) -> Iterator[Comparison]:
        (prompt, one), (other_prompt, other) = (self._turns(row, field) for field in self.answers)
        if prompt != other_prompt:
            raise RowError(self.answers[1], f"another conversation than {self.answers[0]} before the last answer")
        if not prompt or prompt[-1]["role"] != "user":
            raise RowError(self.answers[0], "no turn of the user before the last answer")
        prefer, swapped = labels.needed(self.label, row), False if self.label.ordered else None
        yield chosen_first(Comparison(Prompt(place, prompt), (one, other), prefer, (prefer,), place, swapped=swapped))

    def _turns(self, row: Values, field: str) -> tuple[tuple[Message, ...], str]:
        """The turns before the last answer, and that answer, which may be empty."""
        text = jsonl.check_text(fields.needed(row, field), field)
        before, *rest = re.split(f"({re.escape(self.human)}|{re.escape(self.assistant)})", text)
        turns = list(zip(rest[::2], rest[1::2], strict=True))
        if before.strip() or not turns:
            begin = jsonl.quoted(before.strip())
            raise RowError(field, f"begins with {begin}, not with {self.human!r} or {self.assistant!r}")
        if turns[-1][0] != self.assistant:
            raise RowError(field, "ends with a turn of the user")
        said = [(self._role(mark), turn.strip()) for mark, turn in turns]
        for number, (role, turn) in enumerate(said[:-1], 1):
            if not turn:
                raise RowError(field, f"turn {number}, of the {role}, is blank")
        return tuple({"role": role, "content": turn} for role, turn in said[:-1]), said[-1][1]

    def _role(self, mark: str) -> str:
        return "user" if mark == self.human else "assistant"


EXAMPLE = Transcripts(
    Inline((r'{"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."}',))
)
