"""Ratings on several attributes: answers rated for helpfulness, correctness, verbosity, each an objective of its own.

HelpSteer2 (Wang et al. 2024, arXiv 2406.08673) is of this shape: an answer a row with five ratings from 0 to 4, two
answers to each prompt one behind the other.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxalign.data.comparisons import fields
from jaxalign.data.comparisons.answered import answered
from jaxalign.data.comparisons.asked import Ask, Asked, Field
from jaxalign.data.comparisons.by_prompt import said
from jaxalign.data.comparisons.record import Comparison, chosen_first
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import OnBadRow, Stop, Tally, converted
from jaxalign.data.tables.table import Table, Values
from jaxalign.types import Prompt


@dataclass(frozen=True)
class Attribute:
    """What answers are rated for."""

    field: str
    """key of the rating, a number; rows may lack it"""
    better: Literal["higher", "lower"] = "higher"
    """which rating is the better one: lower of verbosity, where brevity is wanted"""
    close: float = 0.0
    """difference of ratings up to which two answers are even"""

    def problems(self) -> Iterable[str]:
        if not self.close >= 0:
            yield f"close must not be negative, got {self.close}"

    def of(self, row: Values) -> float | None:
        """The rating, the better the higher; None where the row has none."""
        if (found := fields.value(row, self.field)) is None:
            return None
        rating = fields.number(found, self.field)
        return rating if self.better == "higher" else -rating

    def vote(self, one: float | None, other: float | None) -> float | None:
        """P(first ≻ second) of two ratings; None where one is absent."""
        if one is None or other is None:
            return None
        return 0.5 if abs(one - other) <= self.close else float(one > other)


@dataclass(frozen=True)
class RatedAnswer:
    """A row."""

    prompt: Prompt
    answer: str
    ratings: tuple[float | None, ...]
    place: str


@dataclass(frozen=True)
class Attributes:
    """One answer a row with several ratings; rows of one prompt that stand one behind the other are its pairs, all of
    them, and their weights sum to 1. A prompt with one answer alone has none.

    Each attribute votes for the answer that it rates higher; what they say together is the mean of those who say
    something. Pairs of which no attribute says anything are ties.
    """

    responses: ClassVar[int] = 2
    table: Table
    """the rows"""
    attributes: tuple[Attribute, ...]
    """the objectives, in their order"""
    prompt: Asked = Field()
    """where the prompt stands"""
    answer_field: str = "response"
    """key of the answer: a text, or a conversation that ends with it"""
    on_bad_row: OnBadRow = Stop()
    """what becomes of a file with bad rows"""

    def problems(self) -> Iterable[str]:
        if not self.attributes:
            yield "attributes is empty; a pair needs somebody's"

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The pairs, those of a prompt one after another."""
        with self.prompt.open() as ask:
            rows = converted(self.table, lambda place, row: (self._one(ask, place, row),), self.on_bad_row, tally)
            for _, alike in itertools.groupby(rows, lambda each: said(each.prompt)):
                both = list(itertools.combinations(alike, 2))
                yield from (self._pair(one, other, 1 / len(both)) for one, other in both)

    def _one(self, ask: Ask, place: str, row: Values) -> RatedAnswer:
        found = [(self.answer_field, fields.needed(row, self.answer_field))]
        prompt, (answer,) = answered(place, ask(place, row), found)
        ratings = tuple(attribute.of(row) for attribute in self.attributes)
        if all(rating is None for rating in ratings):
            raise RowError(self.attributes[0].field, "missing or null, as all ratings are")
        return RatedAnswer(prompt, answer, ratings, place)

    def _pair(self, one: RatedAnswer, other: RatedAnswer, weight: float) -> Comparison:
        rated = zip(self.attributes, one.ratings, other.ratings, strict=True)
        votes = tuple(attribute.vote(first, second) for attribute, first, second in rated)
        spoken = [vote for vote in votes if vote is not None]
        prefer = sum(spoken) / len(spoken) if spoken else 0.5
        answers = (one.answer, other.answer)
        return chosen_first(Comparison(one.prompt, answers, prefer, votes, one.place, weight=weight, swapped=False))


EXAMPLES = (
    Attribute("helpfulness"),
    Attributes(
        Inline(
            tuple(
                json.dumps({"prompt": "Why?", "response": text, "helpfulness": good, "verbosity": long})
                for text, good, long in (("Because it is so.", 4, 2), ("No.", 0, 0))
            )
        ),
        (Attribute("helpfulness"), Attribute("verbosity", better="lower")),
    ),
)
