"""The prompts of preference data, to be answered anew: what people have compared answers to is what they ask."""

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
from jaxalign.data.comparisons.by_prompt import said
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.prompts import LAYOUT, PromptSet, limit_problems
from jaxalign.data.tables.strict import Tally
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
        files = self._files()
        directory = cache / f"prompts-{self._key(files)}"
        if not directory.exists():
            tfds_store.write(self._prompts(), directory)
        records = tfds_store.records(directory, tfds_store.SPLIT, "id")
        source = ", ".join(map(str, files.values())) or "written in the config"
        return PromptSet(records, lambda _, record: tfds_store.read_prompt(record), self.limit, str(directory), source)

    def _files(self) -> dict[str, str | os.PathLike[str]]:
        reading = [each for each in components(self.comparisons).values() if isinstance(each, Reads)]
        return {f"{index}/{name}": path for index, each in enumerate(reading) for name, path in each.files().items()}

    def _prompts(self) -> Iterator[Prompt]:
        seen: set[bytes] = set()
        for each in self.comparisons.read(Tally()):
            digest = hashlib.sha256(said(each.prompt).encode()).digest()
            if digest not in seen:
                seen.add(digest)
                yield each.prompt

    def _key(self, files: Mapping[str, str | os.PathLike[str]]) -> str:
        """Digest of all that decides the prompts: the settings, and the bytes of every file."""
        digest = hashlib.sha256(json.dumps([LAYOUT, dump(self.comparisons)]).encode())
        for name, path in files.items():
            try:
                with open(path, "rb") as file:
                    digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        return digest.hexdigest()[:32]


EXAMPLE = PromptsOf(pairs.EXAMPLE)
