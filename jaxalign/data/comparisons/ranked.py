"""Ranked or rated lists: two or more answers to a prompt in an order, made into pairs.

`all` pairs are what InstructGPT trains its reward model on, each prompt counting once however many answers it has
(Ouyang et al. 2022, arXiv 2203.02155, eq. 1); `best_worst` is what Zephyr's binarised UltraFeedback comes near to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import ClassVar, Literal

from jaxalign.data import jsonl
from jaxalign.data.comparisons import fields
from jaxalign.data.comparisons.answered import answered
from jaxalign.data.comparisons.asked import Ask, Asked, Field
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import OnBadRow, Stop, Tally, converted
from jaxalign.data.tables.table import Table, Values


@dataclass(frozen=True)
class Ranked:
    """One list of answers a row, the best first, or each with its rating; equal ratings are ties.

    Ratings stand in a list beside the answers, `{"answers": ["…", "…"], "ratings": [4, 2]}`, or in each answer where
    these are objects, `{"answers": [{"text": "…", "rating": 4}, …]}`. The weights of a row's pairs sum to 1.
    """

    responses: ClassVar[int] = 2
    table: Table
    """the rows"""
    prompt: Asked = Field()
    """where the prompt stands"""
    answers_field: str = "answers"
    """key of the list of answers"""
    text_field: str = ""
    """key of an answer's text inside an answer; empty: answers are texts or conversations themselves"""
    rating_field: str = ""
    """key of the ratings: of their list, or inside an answer where `text_field` is set; empty: the best comes first"""
    best: Literal["highest", "lowest"] = "highest"
    """which rating is the best; lowest for ranks"""
    pairs: Literal["all", "adjacent", "best_worst"] = "all"
    """which pairs are made: all, neighbours in the order, or the best with the worst"""
    on_bad_row: OnBadRow = Stop()
    """what becomes of a file with bad rows"""

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The pairs, those of a row one after another."""
        with self.prompt.open() as ask:
            yield from converted(self.table, lambda place, row: self._pairs(ask, place, row), self.on_bad_row, tally)

    def _pairs(self, ask: Ask, place: str, row: Values) -> Iterator[Comparison]:
        listed = jsonl.listed(fields.needed(row, self.answers_field), self.answers_field)
        if len(listed) < 2:
            raise RowError(self.answers_field, "one answer alone; a ranking needs two")
        found = [self._text(value, field) for value, field in listed]
        prompt, answers = answered(place, ask(place, row), found)
        ratings = self._ratings(row, listed) if self.rating_field else None
        sign = 1 if self.best == "highest" else -1
        order = sorted(range(len(answers)), key=lambda i: 0 if ratings is None else -sign * ratings[i])
        chosen = paired(order, self.pairs)
        for one, other in chosen:
            apart = None if ratings is None else sign * (ratings[one] - ratings[other])
            prefer = 0.5 if apart == 0 else 1.0
            yield Comparison(
                prompt,
                (answers[one], answers[other]),
                prefer,
                votes=(prefer,),
                place=place,
                scores=None if ratings is None or self.best == "lowest" else (ratings[one], ratings[other]),
                margin=apart,
                weight=1 / len(chosen),
                swapped=None if ratings is None else one > other,
            )

    def _text(self, value: object, field: str) -> tuple[str, object]:
        if not self.text_field:
            return field, value
        if not isinstance(value, dict):
            raise RowError(field, f"{jsonl.kind(value)} where an object belongs")
        if (found := fields.value(value, self.text_field)) is None:
            raise RowError(f"{field}.{self.text_field}", "missing or null")
        return f"{field}.{self.text_field}", found

    def _ratings(self, row: Values, listed: Sequence[tuple[object, str]]) -> list[float]:
        if self.text_field:
            inside = [
                (fields.value(value, self.rating_field) if isinstance(value, dict) else None, field)
                for value, field in listed
            ]
            return [fields.number(rating, f"{field}.{self.rating_field}") for rating, field in inside]
        ratings = jsonl.listed(fields.needed(row, self.rating_field), self.rating_field)
        if len(ratings) != len(listed):
            raise RowError(self.rating_field, f"{len(ratings)} ratings of {len(listed)} answers")
        return [fields.number(rating, field) for rating, field in ratings]


def paired(order: Sequence[int], pairs: Literal["all", "adjacent", "best_worst"]) -> list[tuple[int, int]]:
    """The pairs of a ranking, the better one of each in front."""
    match pairs:
        case "all":
            return list(combinations(order, 2))
        case "adjacent":
            return list(pairwise(order))
        case "best_worst":
            return [(order[0], order[-1])]


EXAMPLE = Ranked(
    Inline(('{"prompt": "Why?", "answers": ["No.", "Because.", "So."], "ratings": [1, 4, 4]}',)), rating_field="ratings"
)
