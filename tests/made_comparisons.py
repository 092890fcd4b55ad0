"""Preference data from small files, for tests of its sources."""

import dataclasses
import json
import pathlib

from jaxalign.data.comparisons.asked import Field, Instruction, Joined
from jaxalign.data.comparisons.labels import Choice, First, Soft
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.ranked import Ranked
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.comparisons.transcripts import Transcripts
from jaxalign.data.comparisons.unpaired import Unpaired
from jaxalign.data.comparisons.votes import Votes
from jaxalign.data.tables.file import File
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import Skip, Tally

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"
"""Public preference data that lies beside some checkouts and belongs to none."""

NOTHING = Inline(("{}",))
SOFT, CHOICE = Soft("p2", "second"), Choice("label", tie=0)
OUTPUTS = ("output_1", "output_2")
SHAPES: dict[str, Comparisons] = {
    "pairs": Pairs(NOTHING),
    "ties": Pairs(NOTHING, label=First("tie"), margin_field="margin"),
    "soft": Pairs(NOTHING, answers=OUTPUTS, label=SOFT),
    "choice": Pairs(NOTHING, Instruction(), OUTPUTS, CHOICE),
    "joined": Pairs(NOTHING, Joined(Inline(('{"prompt_id": 1, "prompt": "Why?"}',)))),
    "transcripts": Transcripts(NOTHING),
    "ranked": Ranked(NOTHING, rating_field="ratings"),
    "rated": Ranked(NOTHING, text_field="text", rating_field="meta.rating"),
    "votes": Votes(NOTHING, tuple(Choice(name, tie=0) for name in ("ann", "bob"))),
    "objectives": Votes(NOTHING, (Soft("helpful", "first"), Soft("harmless", "first"))),
    "unpaired": Unpaired(NOTHING),
}
"""Sources of all shapes; `over` gives them rows."""


def over(shape: str, table: object) -> Comparisons:
    """A source of that shape over a table."""
    return dataclasses.replace(SHAPES[shape], table=table)


def rows(shape: str, *lines: object) -> list[Comparison]:
    """What a source of that shape makes of rows."""
    return read(over(shape, Inline(tuple(line if isinstance(line, str) else json.dumps(line) for line in lines))))


def read(source: Comparisons) -> list[Comparison]:
    return list(source.read(Tally()))


def tallied(source: Comparisons) -> tuple[list[Comparison], Tally]:
    tally = Tally()
    return list(source.read(tally)), tally


def tldr() -> Pairs:
    folder = SHARED / "discopop-tldr"
    prompts = Joined(File(str(folder / "prompts.jsonl.gz")))
    return Pairs(File(str(folder / "pairs.jsonl.gz")), prompts, OUTPUTS, SOFT)


def hh() -> Transcripts:
    return Transcripts(File(str(SHARED / "hh-rlhf" / "harmless-base.test.jsonl.gz")), on_bad_row=Skip(0.01))


def pandalm() -> Votes:
    votes = tuple(Choice(f"annotator{number}", tie=0) for number in (1, 2, 3))
    return Votes(File(str(SHARED / "pandalm" / "testset-v1.json")), votes, Instruction(), on_bad_row=Skip(0.01))


def llmbar() -> Pairs:
    return Pairs(File(str(SHARED / "llmbar" / "*.json")), Field("input"), OUTPUTS, Choice("label"))
