"""Which shape a table has, guessed from its first rows by the names that people use, for a first look at a file.

A config says what it means and guesses nothing.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from jaxalign.data import jsonl
from jaxalign.data.comparisons import fields
from jaxalign.data.comparisons.asked import Asked, Field, Instruction, Joined
from jaxalign.data.comparisons.labels import Choice, First, Label, Soft
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.ranked import Ranked
from jaxalign.data.comparisons.rated import Rated
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.comparisons.transcripts import Transcripts
from jaxalign.data.comparisons.unpaired import Unpaired
from jaxalign.data.comparisons.votes import Votes
from jaxalign.data.jsonl import BadRows, RowError
from jaxalign.data.tables.strict import OnBadRow
from jaxalign.data.tables.table import Table, Values
from jaxalign.errors import DataError

ROWS = 20
"""Rows that are looked at."""

TWO = (
    ("chosen", "rejected"),
    ("output_1", "output_2"),
    ("response1", "response2"),
    ("response_1", "response_2"),
    ("response_a", "response_b"),
    ("answer_a", "answer_b"),
    ("completion_a", "completion_b"),
)
LISTS = ("answers", "responses", "completions", "outputs", "candidates")
TEXTS = ("text", "response", "content", "answer", "completion")
RATINGS = ("rating", "ratings", "score", "scores", "overall_score")
RANKS = ("rank", "ranks", "ranking")
SOFT = ("p2", "prob_2", "preference_2")
CHOICE = ("label", "preference", "winner", "choice")
PROMPTS = ("prompt", "question", "query", "messages")
KEYS = ("prompt_id", "query_id", "question_id")
TIE = "tie"
"""What a choice of neither is called in words."""
ONE = ("completion", "response", "answer", "output")


def guessed(table: Table, shape: str | None, prompts: Table | None, on_bad_row: OnBadRow) -> Comparisons:
    """A source over the table, of the given shape if one is given; `prompts` is the table to join prompts from.

    DataError naming the columns where they do not tell, and the rows where none can be read. Pairs that are asked for
    by name are there whatever their columns are called.
    """
    row = _telling(_readable(table))
    for name, make in SHAPES.items():
        if shape in (None, name) and (found := make(table, row, prompts, on_bad_row)) is not None:
            return found
    if shape == "pairs":
        # under names that nobody guesses: options say them (--answers a,b), or reading says which are missing
        return Pairs(table, _asked(row, prompts) or Field(), on_bad_row=on_bad_row)
    raise DataError(
        f"{table.title}: its columns {', '.join(map(jsonl.quoted, row))} do not tell "
        + (f"what is what for the shape {shape}" if shape else f"a shape ({', '.join(SHAPES)})")
    )


def _readable(table: Table) -> list[Values]:
    """The first rows, without those that cannot be read. DataError naming each where there is no other."""
    readable, refused = list[Values](), BadRows()
    for row in islice(table.rows(), ROWS):
        if isinstance(row.values, RowError):
            refused.add(row.place, row.values)
        else:
            readable.append(row.values)
    if refused.count and not readable:
        raise refused.error(table.title, refused.count, " looked at")
    if not readable:
        raise DataError(f"{table.title}: no rows")
    return readable


def _telling(rows: Iterable[Values]) -> Values:
    """One row of what the rows have: of each column the first value, the first that is no tie where there is one. A
    tie does not tell how answers are called."""
    row: dict[str, object] = {}
    for name, value in (item for values in rows for item in values.items()):
        if value is not None and (name not in row or fields.plain(row[name]) == TIE):
            row[name] = value
    return row


def _transcripts(table: Table, row: Values, prompts: Table | None, on_bad_row: OnBadRow) -> Comparisons | None:
    answers, label = _two(row), _label(row)
    marks = Transcripts(table)
    if answers is None or label is None or _asked(row, prompts) is not None:
        return None
    if not all(isinstance(row[name], str) and marks.assistant in row[name] for name in answers):
        return None
    return Transcripts(table, answers, label, on_bad_row=on_bad_row)


def _votes(table: Table, row: Values, prompts: Table | None, on_bad_row: OnBadRow) -> Comparisons | None:
    answers = _two(row)
    voters = [name for name in row if re.fullmatch(r"(annotator|vote|rater)_?\d+", name)]
    if answers is None or not voters:
        return None
    votes = tuple(_choice(name, row[name]) for name in voters)
    return Votes(table, votes, _asked(row, prompts) or Field(), answers, on_bad_row)


def _pairs(table: Table, row: Values, prompts: Table | None, on_bad_row: OnBadRow) -> Comparisons | None:
    answers, label = _two(row), _label(row)
    if answers is None or label is None:
        return None
    margin = _first(row, ("margin",)) or ""
    return Pairs(table, _asked(row, prompts) or Field(), answers, label, margin, on_bad_row)


def _ranked(table: Table, row: Values, prompts: Table | None, on_bad_row: OnBadRow) -> Comparisons | None:
    name = _first(row, LISTS)
    if name is None or not isinstance(row[name], list) or not row[name]:
        return None
    inner = row[name][0] if isinstance(row[name][0], dict) else None
    text = "" if inner is None else _first(inner, TEXTS)
    if text is None:
        return None
    beside = row if inner is None else inner
    rating, rank = _first(beside, RATINGS), _first(beside, RANKS)
    return Ranked(
        table,
        _asked(row, prompts) or Field(),
        name,
        text,
        rating or rank or "",
        "highest" if rating or not rank else "lowest",
        on_bad_row=on_bad_row,
    )


def _unpaired(table: Table, row: Values, prompts: Table | None, on_bad_row: OnBadRow) -> Comparisons | None:
    answer, label = _first(row, ONE), _first(row, ("label", "desirable", "thumbs_up"))
    if answer is None or label is None:
        return None
    return Unpaired(table, _asked(row, prompts) or Field(), answer, label, _first(row, RATINGS) or "", on_bad_row)


def _rated(table: Table, row: Values, prompts: Table | None, on_bad_row: OnBadRow) -> Comparisons | None:
    answer, rating = _first(row, ONE), _first(row, RATINGS)
    if answer is None or rating is None:
        return None
    return Rated(table, _asked(row, prompts) or Field(), answer, rating, on_bad_row=on_bad_row)


SHAPES: Mapping[str, Callable[[Table, Values, Table | None, OnBadRow], Comparisons | None]] = {
    "transcripts": _transcripts,
    "votes": _votes,
    "pairs": _pairs,
    "ranked": _ranked,
    "unpaired": _unpaired,
    "rated": _rated,
}
"""By name, the most telling first."""


def _first(row: Values, names: Iterable[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _two(row: Values) -> tuple[str, str] | None:
    return next((names for names in TWO if names[0] in row and names[1] in row), None)


def _asked(row: Values, prompts: Table | None) -> Asked | None:
    key = _first(row, KEYS)
    if prompts is not None and key is not None:
        return Joined(prompts, key)
    if name := _first(row, PROMPTS):
        return Field(name)
    if "instruction" in row:
        return Instruction()
    return Field("input") if "input" in row else None


def _label(row: Values) -> Label | None:
    if "chosen" in row:
        return First("tie" if isinstance(fields.plain(row.get("tie")), bool) else "")
    if name := _first(row, SOFT):
        return Soft(name, "second")
    name = _first(row, CHOICE)
    return None if name is None else _choice(name, row[name])


def _choice(name: str, value: object) -> Choice:
    """The choice that is written as such a value: a number, a letter, or the name of a column's end."""
    if isinstance(fields.plain(value), str):
        for first, second in (("model_a", "model_b"), ("a", "b"), ("A", "B"), ("1", "2")):
            if value in (first, second, TIE):
                return Choice(name, first, second, TIE)
    return Choice(name, tie=0)
