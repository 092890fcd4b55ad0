"""Votes: two answers to a prompt, and what several annotators, or several objectives, say of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from jaxalign.data.comparisons import fields
from jaxalign.data.comparisons.answered import answered
from jaxalign.data.comparisons.asked import Ask, Asked, Field
from jaxalign.data.comparisons.labels import Choice, Label
from jaxalign.data.comparisons.pairs import answer_problems
from jaxalign.data.comparisons.record import Comparison, chosen_first
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import OnBadRow, Stop, Tally, converted
from jaxalign.data.tables.table import Table, Values


@dataclass(frozen=True)
class Votes:
    """One pair a row with a label from each annotator; what they say together is the mean of those who say something.

    A vote that the row lacks, or that is null, is absent; a row without any is a bad one.
    """

    responses: ClassVar[int] = 2
    table: Table
    """the rows"""
    votes: tuple[Label, ...]
    """what each annotator, or objective, says"""
    prompt: Asked = Field()
    """where the prompt stands"""
    answers: tuple[str, str] = ("response1", "response2")
    """keys of the two answers"""
    on_bad_row: OnBadRow = Stop()
    """what becomes of a file with bad rows"""

    def problems(self) -> Iterable[str]:
        yield from answer_problems(self.answers)
        if not self.votes:
            yield "votes is empty; a pair needs somebody's"

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The pairs."""
        with self.prompt.open() as ask:
            yield from converted(self.table, lambda place, row: self._pair(ask, place, row), self.on_bad_row, tally)

    def _pair(self, ask: Ask, place: str, row: Values) -> Iterator[Comparison]:
        prompt, answers = answered(place, ask(place, row), [(name, fields.needed(row, name)) for name in self.answers])
        votes = tuple(label(row) for label in self.votes)
        said = [vote for vote in votes if vote is not None]
        if not said:
            raise RowError(self.votes[0].field, "missing or null, as all votes are")
        prefer, ordered = sum(said) / len(said), all(label.ordered for label in self.votes)
        yield chosen_first(Comparison(prompt, answers, prefer, votes, place, swapped=False if ordered else None))


EXAMPLE = Votes(
    Inline(
        (
            '{"prompt": "Why?", "response1": "No.", "response2": "Because.", "ann": 2, "bob": 2, "cid": 0}',
            '{"prompt": "How?", "response1": "So.", "response2": "Thus.", "ann": 1, "cid": null}',
        )
    ),
    votes=tuple(Choice(name, tie=0) for name in ("ann", "bob", "cid")),
)
