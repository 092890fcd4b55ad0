"""Prompts of tables, and of preference data to be answered anew: what people have compared answers to is what they
ask."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from jaxalign.config.load import components
from jaxalign.config.resolved import dump
from jaxalign.data import tfds_store
from jaxalign.data.comparisons import pairs
from jaxalign.data.comparisons.asked import Asked, Field
from jaxalign.data.comparisons.by_prompt import said
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.jsonl import RowError
from jaxalign.data.prompts import LAYOUT, JsonlPrompts, PromptSet, limit_problems
from jaxalign.data.tables.file import File
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import OnBadRow, Stop, Tally, converted
from jaxalign.data.tables.table import Table, Values
from jaxalign.errors import DataError
from jaxalign.types import Prompt, Reads


@dataclass(frozen=True)
class PromptsOf:
    """Prompts of comparisons, each once however many answers were compared, in the order in which they come first."""

    comparisons: Comparisons
    """the preference data"""
    limit: int | None = None
    """use the first prompts only"""

    def problems(self) -> Iterable[str]:
        return limit_problems(self.limit)

    def open(self, cache: pathlib.Path) -> PromptSet:
        """The prompts, converted below `cache` unless they are there. DataError names every bad row."""
        return _converted(self.comparisons, self._prompts(), self.limit, cache)

    def _prompts(self) -> Iterator[Prompt]:
        seen: set[bytes] = set()
        for each in self.comparisons.read(Tally()):
            digest = hashlib.sha256(said(each.prompt).encode()).digest()
            if digest not in seen:
                seen.add(digest)
                yield each.prompt


@dataclass(frozen=True)
class TablePrompts:
    """A prompt a row of a table: of CSV, Parquet, TFDS and whatever else is a table. Ids are the rows' places."""

    table: Table
    """the rows"""
    prompt: Asked = Field()
    """where the prompt stands"""
    limit: int | None = None
    """use the first rows only (all are validated)"""
    on_bad_row: OnBadRow = Stop()
    """what becomes of a file with bad rows"""

    def problems(self) -> Iterable[str]:
        return limit_problems(self.limit)

    def open(self, cache: pathlib.Path) -> PromptSet:
        """The prompts, converted below `cache` unless they are there. DataError names every bad row."""
        return _converted(dataclasses.replace(self, limit=None), self._prompts(), self.limit, cache)

    def read(self) -> tuple[Prompt, ...]:
        """All prompts at once, kept nowhere; for a person's own few."""
        return tuple(self._prompts())

    def _prompts(self) -> Iterator[Prompt]:
        with self.prompt.open() as ask:

            def asked(place: str, row: Values) -> Iterator[Prompt]:
                found = ask(place, row)
                if found is None:
                    raise RowError(getattr(self.prompt, "field", ""), "missing or null")
                yield dataclasses.replace(found, id=place)

            yield from converted(self.table, asked, self.on_bad_row, Tally())


def prompts_in(path: str) -> tuple[Prompt, ...]:
    """All prompts of a file, whatever its name says it is: lines of `JsonlPrompts`, or a table with a column `prompt`.
    DataError names every bad row."""
    table = pathlib.Path(path).suffix in (".csv", ".tsv", ".parquet", ".gz", ".zst") or pathlib.Path(path).is_dir()
    return TablePrompts(File(path)).read() if table else JsonlPrompts(path).read()


def _converted(source: object, prompts: Iterator[Prompt], limit: int | None, cache: pathlib.Path) -> PromptSet:
    """The prompts of a component, stored under a name of all that decides them."""
    reading = [each for each in components(source).values() if isinstance(each, Reads)]
    files = {f"{index}/{name}": path for index, each in enumerate(reading) for name, path in each.files().items()}
    directory = cache / f"prompts-{_key(source, files)}"
    if not directory.exists():
        tfds_store.write(prompts, directory)
    records = tfds_store.records(directory, tfds_store.SPLIT, "id")
    where = ", ".join(map(str, files.values())) or "written in the config"
    return PromptSet(records, lambda _, record: tfds_store.read_prompt(record), limit, str(directory), where)


def _key(source: object, files: Mapping[str, str | os.PathLike[str]]) -> str:
    """Digest of all that decides the prompts: the settings, and the bytes of every file."""
    digest = hashlib.sha256(json.dumps([LAYOUT, dump(source)]).encode())
    for name, path in files.items():
        try:
            with open(path, "rb") as file:
                digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:32]


EXAMPLES = (PromptsOf(pairs.EXAMPLE), TablePrompts(Inline(('{"prompt": "Why?"}', '{"prompt": "How?"}'))))
