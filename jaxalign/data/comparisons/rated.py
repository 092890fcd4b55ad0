"""Rated answers: one answer to a prompt, and its rating on a scale."""

import json
from collections.abc import Iterable, Iterator
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
class Rated:
    """One answer a row with its rating: P(desirable) is how far up the scale it stands, from 0 at `worst` to 1."""

    responses: ClassVar[int] = 1
    table: Table
    """the rows"""
    prompt: Asked = Field()
    """where the prompt stands"""
    answer_field: str = "completion"
    """key of the answer: a text, or a conversation that ends with it"""
    rating_field: str = "rating"
    """key of the rating, a number on the scale"""
    worst: float = 1.0
    """rating of the worst answers"""
    best: float = 5.0
    """rating of the best answers, above or below `worst`"""
    on_bad_row: OnBadRow = Stop()
    """what becomes of a file with bad rows"""

    def problems(self) -> Iterable[str]:
        if self.worst == self.best:
            yield f"worst and best must differ, got {self.worst} of both"

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The answers."""
        with self.prompt.open() as ask:
            yield from converted(self.table, lambda place, row: self._one(ask, place, row), self.on_bad_row, tally)

    def _one(self, ask: Ask, place: str, row: Values) -> Iterator[Comparison]:
        found = [(self.answer_field, fields.needed(row, self.answer_field))]
        prompt, answers = answered(place, ask(place, row), found)
        low, high = sorted((self.worst, self.best))
        rating = fields.number(fields.needed(row, self.rating_field), self.rating_field, low, high)
        good = (rating - self.worst) / (self.best - self.worst)
        # scores are the better the higher, everywhere
        scores = (rating,) if self.best > self.worst else None
        yield Comparison(prompt, answers, good, (good,), place, scores=scores)


EXAMPLE = Rated(
    Inline(
        tuple(
            json.dumps({"prompt": "Why?", "completion": text, "rating": rating})
            for text, rating in (("Because.", 5), ("", 1), ("So.", 3.5))
        )
    )
)
