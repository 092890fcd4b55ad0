"""Unpaired answers: one answer to a prompt, and whether it is a good one (Ethayarajh et al. 2024, arXiv 2402.01306)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from jaxalign.data.comparisons import fields
from jaxalign.data.comparisons.answered import answered
from jaxalign.data.comparisons.asked import Ask, Asked, Field
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import OnBadRow, Stop, Tally, converted
from jaxalign.data.tables.table import Table, Values


@dataclass(frozen=True)
class Unpaired:
    """One answer a row with its label: true, false, or the probability that it is desirable."""

    responses: ClassVar[int] = 1
    table: Table
    """the rows"""
    prompt: Asked = Field()
    """where the prompt stands"""
    answer_field: str = "completion"
    """key of the answer: a text, or a conversation that ends with it"""
    label_field: str = "label"
    """key of the label: a boolean, or a number in [0, 1]"""
    rating_field: str = ""
    """key of a rating of the answer, higher is better; empty: there is none"""
    on_bad_row: OnBadRow = Stop()
    """what becomes of a file with bad rows"""

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The answers."""
        with self.prompt.open() as ask:
            yield from converted(self.table, lambda place, row: self._one(ask, place, row), self.on_bad_row, tally)

    def _one(self, ask: Ask, place: str, row: Values) -> Iterator[Comparison]:
        found = [(self.answer_field, fields.needed(row, self.answer_field))]
        prompt, answers = answered(place, ask(place, row), found)
        label = fields.plain(fields.needed(row, self.label_field))
        good = float(label) if isinstance(label, bool) else fields.number(label, self.label_field, 0.0, 1.0)
        rating = fields.number(fields.needed(row, name), name) if (name := self.rating_field) else None
        yield Comparison(prompt, answers, good, (good,), place, scores=None if rating is None else (rating,))


EXAMPLE = Unpaired(
    Inline(
        (
            '{"prompt": "Why?", "completion": "Because.", "label": true}',
            '{"prompt": "Why?", "completion": "", "label": 0.25}',
        )
    )
)
