"""What was asked: how a row says its prompt."""

import contextlib
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxalign.data import jsonl
from jaxalign.data.comparisons import fields
from jaxalign.data.comparisons.record import Message
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import Stop, Tally, converted
from jaxalign.data.tables.table import Table, Values
from jaxalign.types import Prompt

Ask = Callable[[str, Values], Prompt | None]
"""(place, row) → its prompt, None where the row has none of its own. RowError for what is no prompt."""


@runtime_checkable
class Asked(Protocol):
    """How rows say their prompts. `open` is entered while a table is read."""

    def open(self) -> AbstractContextManager[Ask]: ...


@dataclass(frozen=True)
class Field:
    """The prompt is a text, or a conversation that the user speaks last in."""

    field: str = "prompt"
    """key of the prompt; rows may lack it where their answers are conversations that begin with it"""
    tools_field: str = "tools"
    """key of an array of tools for the chat template; rows may lack it"""

    def open(self) -> AbstractContextManager[Ask]:
        return contextlib.nullcontext(self._ask)

    def _ask(self, place: str, row: Values) -> Prompt | None:
        found = fields.value(row, self.field)
        tools = fields.listed(fields.value(row, self.tools_field), self.tools_field, fields.TOOLS)
        tools = jsonl.check_tools(tools, self.tools_field)
        return None if found is None else Prompt(place, messages(found, self.field), tools)


@dataclass(frozen=True)
class Instruction:
    """The prompt is an instruction with an input behind it, after an empty line; one of them may be blank."""

    instruction_field: str = "instruction"
    """key of the instruction"""
    input_field: str = "input"
    """key of the input; rows may lack it"""

    def open(self) -> AbstractContextManager[Ask]:
        return contextlib.nullcontext(self._ask)

    def _ask(self, place: str, row: Values) -> Prompt:
        parts = [
            jsonl.check_string(fields.needed(row, self.instruction_field), self.instruction_field),
            jsonl.check_string(fields.value(row, self.input_field) or "", self.input_field),
        ]
        said = [part for part in parts if part.strip()]
        if not said:
            raise RowError(self.instruction_field, "blank, as the input is")
        return Prompt(place, user("\n\n".join(said)))


@dataclass(frozen=True)
class Joined:
    """The prompts are in a table of their own; rows name them by a key."""

    table: Table
    """the prompts"""
    key_field: str = "prompt_id"
    """key, in both tables, of what names a prompt: a string or an integer"""
    field: str = "prompt"
    """key of the prompt in its table: a text or a conversation"""

    @contextlib.contextmanager
    def open(self) -> Iterator[Ask]:
        """The prompts on the disk meanwhile, since they may be more than memory holds. DataError naming bad ones."""
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxalign-prompts-")))
            found = sqlite3.connect(folder / "prompts", isolation_level=None)
            stack.callback(found.close)
            # a file that nobody opens twice needs no journal
            found.execute("PRAGMA journal_mode = OFF")
            found.execute("PRAGMA synchronous = OFF")
            found.execute("CREATE TABLE prompts (key TEXT PRIMARY KEY, place TEXT, messages TEXT) WITHOUT ROWID")
            found.execute("BEGIN")
            self._fill(found)
            found.execute("COMMIT")
            yield lambda _, row: self._ask(found, row)

    def _fill(self, found: sqlite3.Connection) -> None:
        def insert(place: str, row: Values) -> Iterator[None]:
            key = self._key(row)
            asked = json.dumps(messages(fields.needed(row, self.field), self.field))
            if found.execute("INSERT OR IGNORE INTO prompts VALUES (?, ?, ?)", (key, place, asked)).rowcount == 0:
                (first,) = found.execute("SELECT place FROM prompts WHERE key = ?", (key,)).fetchone()
                raise RowError(self.key_field, f"{jsonl.quoted(key)} stands at {first} too")
            yield

        for _ in converted(self.table, insert, Stop(), Tally()):
            pass

    def _ask(self, found: sqlite3.Connection, row: Values) -> Prompt:
        key = self._key(row)
        asked = found.execute("SELECT messages FROM prompts WHERE key = ?", (key,)).fetchone()
        if asked is None:
            raise RowError(self.key_field, f"{jsonl.quoted(key)} names no prompt of {self.table.title}")
        return Prompt(key, tuple(json.loads(asked[0])))

    def _key(self, row: Values) -> str:
        key = fields.needed(row, self.key_field)
        return str(key) if type(key) is int else jsonl.check_text(key, self.key_field)


def messages(found: object, field: str) -> tuple[Message, ...]:
    """A prompt that is a text or a conversation; RowError for one that is neither."""
    found = fields.listed(found, field)
    if isinstance(found, list):
        return jsonl.check_messages(found, field)
    return user(jsonl.check_text(found, field))


def user(text: str) -> tuple[Message, ...]:
    """A conversation of one message."""
    return ({"role": "user", "content": text},)


EXAMPLES = (
    Field(),
    Instruction(),
    Joined(Inline(('{"prompt_id": 7, "prompt": "Why?"}',))),
)
