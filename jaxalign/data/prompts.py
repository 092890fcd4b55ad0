"""Prompts: where they come from.

A prompt source is a frozen dataclass that a config file names; `open(cache)` gives a PromptSet. Built-in and JSONL
prompts are validated and converted once to a TFDS dataset of ArrayRecord files below `cache`; every source but the
inline one is then read by random access through TFDS. `order` says in which order a run sees them.
"""

import hashlib
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from jaxalign.contracts.arrays import described
from jaxalign.data import jsonl, tfds_store
from jaxalign.data.jsonl import RowError
from jaxalign.errors import BrokenContract, DataError
from jaxalign.types import Prompt

T = TypeVar("T")

LAYOUT = 2
"""Version of the converted datasets and of the validation they went through; part of their directory's name."""


class PromptSet:
    """Prompts by index. `fingerprint` is a sha256 over the ids and messages in their order.

    Every prompt is read once to compute it, so a damaged record raises DataError here and not in the middle of a
    run. `origin` is what such an error names; `source` what a person calls the prompts, where that is something else.
    """

    def __init__(
        self,
        records: Sequence[T],
        decode: Callable[[int, T], Prompt],
        limit: int | None,
        origin: str,
        source: str | None = None,
    ):
        self._records, self._decode, self._origin = records, decode, origin
        self.source = origin if source is None else source
        self._size = len(records) if limit is None else min(limit, len(records))
        if self._size < 1:
            raise DataError(f"{origin}: no prompts")
        digest = hashlib.sha256()
        for index in range(self._size):
            prompt = self[index]
            messages = [[message["role"], message["content"]] for message in prompt.messages]
            digest.update(json.dumps([prompt.id, messages, *([prompt.tools] if prompt.tools else [])]).encode() + b"\n")
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Prompt:
        if not 0 <= index < self._size:
            raise IndexError(f"prompt {index} of {self._size}")
        try:
            return self._decode(index, self._records[index])
        except RowError as error:
            raise DataError(f"{self._origin}: record {index}:{error}") from None
        except Exception as error:  # damage shows as whatever the readers of ArrayRecord and of its protos raise
            raise DataError(f"{self._origin}: record {index} cannot be read: {error}") from error


# --------------------------------------------------------------------------------------------------------------
# Sources


@runtime_checkable
class PromptSource(Protocol):
    """Where prompts come from: a frozen dataclass. `open` raises DataError before any of them is used."""

    def open(self, cache: pathlib.Path) -> PromptSet: ...


def opened(source: PromptSource, cache: pathlib.Path) -> PromptSet:
    """The prompts of a source. Raises what it raises, and BrokenContract where it gives none."""
    found: object = source.open(cache)
    if not isinstance(found, PromptSet):
        raise BrokenContract(f"prompts {type(source).__name__}: open must return a PromptSet, got {described(found)}")
    return found


@dataclass(frozen=True)
class InlinePrompts:
    """Prompts written in the config file itself: for games and tests. Ids are inline-0, inline-1, …"""

    texts: tuple[str, ...]
    """one user message each"""

    def open(self, cache: pathlib.Path) -> PromptSet:
        """The prompts; `cache` is not touched."""

        def decode(index: int, text: str) -> Prompt:
            return _from_text(f"inline-{index}", jsonl.check_text(text, f"texts[{index}]"))

        return PromptSet(self.texts, decode, None, "inline prompts")


@dataclass(frozen=True)
class JsonlPrompts:
    """One JSON object a line with a prompt, `{"prompt": "…"}`, or with a conversation that the user speaks last in,
    `{"messages": [{"role": "user", "content": "…"}]}`.

    An `id` (string or integer, unique) is optional; FILE:LINE stands in for it. So are `tools`, an array of objects
    that the chat template is given. Other keys are ignored.
    """

    path: str
    """file of one JSON object a line, UTF-8"""
    text_field: str = "prompt"
    """key of a prompt; empty to ignore prompts where rows have conversations too"""
    messages_field: str = "messages"
    """key of a conversation; empty to ignore conversations where rows have prompts too"""
    max_line_bytes: int = 1 << 20
    """longest line, bytes"""
    limit: int | None = None
    """use the first rows only (all are validated)"""

    def problems(self) -> Iterable[str]:
        yield from limit_problems(self.limit)
        if self.max_line_bytes < 1:
            yield f"max_line_bytes must be at least 1, got {self.max_line_bytes}"
        if not (self.text_field or self.messages_field):
            yield "text_field and messages_field are both empty"

    def open(self, cache: pathlib.Path) -> PromptSet:
        """The prompts, converted below `cache` unless they are there. DataError names every bad row."""
        path = pathlib.Path(self.path)
        directory = cache / f"prompts-{self._key(path)}"
        if not directory.exists():
            tfds_store.write(self._rows(path), directory)
            if directory.name != f"prompts-{self._key(path)}":
                raise DataError(f"{path}: changed while it was read; run again")
        try:
            records = tfds_store.records(directory, tfds_store.SPLIT, "id")
            return PromptSet(
                records, lambda _, record: tfds_store.read_prompt(record), self.limit, str(directory), str(path)
            )
        except DataError as error:
            raise DataError(f"{error}\nIt is a converted copy of {path}: delete it to have it made anew") from error

    def read(self) -> tuple[Prompt, ...]:
        """All prompts at once, kept nowhere; for a person's own few."""
        with tempfile.TemporaryDirectory() as cache:
            opened = self.open(pathlib.Path(cache))
            return tuple(opened[index] for index in range(len(opened)))

    def _key(self, path: pathlib.Path) -> str:
        """Digest of all that decides the converted rows: the file's bytes, its name (in ids) and the options."""
        options = json.dumps([LAYOUT, path.name, self.text_field, self.messages_field, self.max_line_bytes])
        digest = hashlib.sha256(options.encode())
        if path.is_file():  # what else it may be, reading the rows says
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        return digest.hexdigest()[:32]

    def _rows(self, path: pathlib.Path) -> Iterator[Prompt]:
        lines: dict[str, int] = {}

        def convert(number: int, row: dict[str, Any]) -> Prompt:
            name = _id(row) or f"{path.name}:{number}"
            first = lines.setdefault(name, number)
            if first != number:
                raise RowError("id", f"{jsonl.quoted(name)} is the id of line {first} too")
            return Prompt(name, self._messages(row), jsonl.check_tools(row.get("tools"), "tools"))

        return jsonl.read(path, self.max_line_bytes, convert)

    def _messages(self, row: dict[str, Any]) -> tuple[Mapping[str, str], ...]:
        text = row.get(self.text_field) if self.text_field else None
        messages = row.get(self.messages_field) if self.messages_field else None
        if text is not None and messages is not None:
            raise RowError(self.messages_field, f"stands beside {self.text_field!r}; a row has one of the two")
        if messages is not None:
            return jsonl.check_messages(messages, self.messages_field)
        if text is None:
            either = " or ".join(repr(name) for name in (self.text_field, self.messages_field) if name)
            raise RowError(self.text_field or self.messages_field, f"missing or null; a row needs {either}")
        return ({"role": "user", "content": jsonl.check_text(text, self.text_field)},)


@dataclass(frozen=True)
class BuiltinPrompts:
    """The instructions that ship with jaxalign: a split to train on and one, of other topics, to evaluate on.

    Neighbours are of different kinds, so that the first `limit` are as varied as the whole.
    """

    split: Literal["train", "heldout"] = "train"
    """which of the two"""
    limit: int | None = None
    """use the first ones only"""

    def problems(self) -> Iterable[str]:
        return limit_problems(self.limit)

    def open(self, cache: pathlib.Path) -> PromptSet:
        """The prompts, converted below `cache` unless they are there."""
        path = pathlib.Path(__file__).parent / "builtin" / f"{self.split}.jsonl"
        return JsonlPrompts(str(path), limit=self.limit).open(cache)


@dataclass(frozen=True)
class TfdsPrompts:
    """A text feature of a prepared TFDS dataset in ArrayRecord format. Ids are SPLIT:INDEX."""

    directory: str
    """the dataset's version directory, which holds dataset_info.json"""
    split: str = "train"
    """a split, or a slice of one as TFDS writes it: "train[:10%]" """
    text_field: str = "prompt"
    """the text feature to use"""
    limit: int | None = None
    """use the first records only"""

    def problems(self) -> Iterable[str]:
        return limit_problems(self.limit)

    def open(self, cache: pathlib.Path) -> PromptSet:
        """The prompts, read where they are. DataError names the directory and the split, feature or record."""
        records = tfds_store.records(pathlib.Path(self.directory), self.split, self.text_field)

        def decode(index: int, record: Any) -> Prompt:
            value = record[self.text_field]
            text = value.decode() if isinstance(value, bytes) else value
            return _from_text(f"{self.split}:{index}", jsonl.check_text(text, self.text_field))

        return PromptSet(records, decode, self.limit, f"{self.directory}: split {self.split!r}")


def _from_text(name: str, text: str) -> Prompt:
    return Prompt(name, ({"role": "user", "content": text},))


def limit_problems(limit: int | None) -> Iterator[str]:
    """What is wrong with how many prompts of a source are taken."""
    if limit is not None and limit < 1:
        yield f"limit must be at least 1, or None for all prompts, got {limit}"


def _id(row: dict[str, Any]) -> str | None:
    value = row.get("id")
    if type(value) is int:  # not a bool, which is an int too
        return str(value)
    return None if value is None else jsonl.check_text(value, "id")
