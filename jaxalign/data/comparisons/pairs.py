"""Pairs: two answers to a prompt, and which is better."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from jaxalign.data.comparisons import fields, labels
from jaxalign.data.comparisons.answered import answered
from jaxalign.data.comparisons.asked import Ask, Asked, Field
from jaxalign.data.comparisons.labels import First, Label
from jaxalign.data.comparisons.record import Comparison, chosen_first
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import OnBadRow, Stop, Tally, converted
from jaxalign.data.tables.table import Table, Values


@dataclass(frozen=True)
class Pairs:
    """One pair a row: `{"prompt": …, "chosen": …, "rejected": …}`, or two outputs with a label.

    Answers are texts, or conversations that end with the answer; these may begin with the prompt, which rows then need
    not have beside it.
    """

    responses: ClassVar[int] = 2
    table: Table
    """the rows"""
    prompt: Asked = Field()
    """where the prompt stands"""
    answers: tuple[str, str] = ("chosen", "rejected")
    """keys of the two answers"""
    label: Label = First()
    """which of them is better"""
    margin_field: str = ""
    """key of how much better it is, a number ≥ 0; empty: nobody says it"""
    on_bad_row: OnBadRow = Stop()
    """what becomes of a file with bad rows"""

    def problems(self) -> Iterable[str]:
        return answer_problems(self.answers)

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The pairs."""
        with self.prompt.open() as ask:
            yield from converted(self.table, lambda place, row: self._pair(ask, place, row), self.on_bad_row, tally)

    def _pair(self, ask: Ask, place: str, row: Values) -> Iterator[Comparison]:
        prompt, answers = answered(place, ask(place, row), [(name, fields.needed(row, name)) for name in self.answers])
        margin = fields.optional(row, self.margin_field)
        prefer = labels.needed(self.label, row)
        pair = Comparison(
            prompt,
            answers,
            prefer,
            votes=(prefer,),
            place=place,
            margin=None if margin is None else fields.number(margin, self.margin_field, low=0.0),
            swapped=False if self.label.ordered else None,
        )
        yield chosen_first(pair)


def answer_problems(answers: tuple[str, str]) -> Iterable[str]:
    """What is wrong with the names of the two fields that hold a row's answers."""
    if not all(answers) or answers[0] == answers[1]:
        yield f"answers must be two keys, got {', '.join(map(repr, answers))}"


EXAMPLE = Pairs(
    Inline(
        (
            '{"prompt": "Why?", "chosen": "Because it is so.", "rejected": "No."}',
            '{"chosen": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "Slowly."}],'
            ' "rejected": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": ""}]}',
        )
    )
)
