"""Tokenised comparisons on disk: training groups by number, of which memory holds those that are taken.

Ids are records of ArrayRecord files, read by index through Grain; lengths and labels are memory-mapped columns. A host
reads the records that it takes, and no others.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64

from jaxalign.data.comparisons import building
from jaxalign.data.comparisons.building import Telling
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.comparisons.tokenised import WORKERS, Encoder
from jaxalign.data.groups import Taken
from jaxalign.errors import DataError
from jaxalign.types import Labels, Prompt


def stored(
    directory: pathlib.Path,
    source: Comparisons,
    encode: Encoder,
    origin: str,
    telling: Telling,
    workers: int = WORKERS,
) -> "Store":
    """The comparisons of a source as `encode` makes them, built as `directory` unless they are there.

    The name of the directory is expected to stand for all that decides its content. DataError for bad rows, and where
    nothing is left to train on.
    """
    if not (directory / building.INFO).is_file():
        with building.exclusive(directory):
            if not (directory / building.INFO).is_file():
                building.build(directory, source, encode, origin, telling, workers)
    return Store(directory, origin)


class Store:
    """Groups of tokenised comparisons. `left_out` counts by reason what is none of them, `cut` what was truncated.

    `fingerprint` is of what the comparisons say, wherever their files lie. `rows` are those that were read, skipped,
    and why.
    """

    def __init__(self, directory: pathlib.Path, origin: str):
        self.directory = directory
        info = json.loads((directory / building.INFO).read_text())
        self.fingerprint: str = info["fingerprint"]
        self.rows: Mapping[str, Any] = info["rows"]
        self.left_out: Mapping[str, int] = info["left_out"]
        self.cut: Mapping[str, int] = info["cut"]
        self._seen, self._filled = info["seen"], info["filled"]
        if not self._filled:
            told = "".join(f", {count} with {why}" for why, count in self.left_out.items())
            raise DataError(f"{origin}: nothing to train on; {sum(self.left_out.values())} left out{told}")
        self._columns = {name: self._column(name) for name in (*building.COLUMNS, "groups")}
        # a column is there where all have it: what a loss reads of one group it reads of every group
        self._scored, self._marked = (bool(np.isfinite(self._columns[name]).all()) for name in ("scores", "margin"))

    def __len__(self) -> int:
        return len(self._columns["groups"])

    @property
    def responses(self) -> int:
        """Answers of a group."""
        return self._columns["lengths"].shape[1]

    @cached_property
    def prompts(self) -> Int[np.ndarray, " g"]:
        """A number for every group's prompt."""
        _, numbers = np.unique(self._columns["prompt_key"], return_inverse=True)
        return numbers.astype(np.int32)[self._columns["groups"]]

    @cached_property
    def prompt_keys(self) -> UInt64[np.ndarray, " k"]:
        """Digests of what the prompts say, each once."""
        return np.unique(self._columns["prompt_key"])

    @cached_property
    def prompt_lengths(self) -> Int[np.ndarray, " g"]:
        """Tokens of every group's prompt."""
        return self._picked("prompt_lengths")

    @cached_property
    def lengths(self) -> Int[np.ndarray, "g r"]:
        """Tokens of every answer."""
        return self._picked("lengths")

    @cached_property
    def answers(self) -> Int[np.ndarray, "g r"]:
        """A number for every answer: 64 bits of what it and its prompt say."""
        return self._picked("answer_keys")

    @cached_property
    def weight(self) -> Float[np.ndarray, " g"]:
        """Every group's share in the loss before normalisation."""
        return self._picked("weight")

    def first(self, count: int) -> tuple[Prompt, ...]:
        """The first prompts, none twice, as they were before they were tokenised; of those that were kept so."""
        found = {json.dumps(each["messages"]): each for each in reversed(self._seen)}
        ordered = reversed(found.values())
        return tuple(Prompt(each["id"], tuple(each["messages"]), each["tools"]) for each in ordered)[:count]

    def take(self, numbers: Int[np.ndarray, " b"]) -> Taken:
        """The groups numbered so."""
        rows = self._columns["groups"][numbers]
        records, which = np.unique(self._columns["prompt_record"][rows], return_inverse=True)
        asked = self._read(self._prompt_records, records)
        prompt_lengths, lengths = self._columns["prompt_lengths"][rows], self._columns["lengths"][rows]
        prompt = np.zeros((len(rows), prompt_lengths.max(initial=1)), np.int32)
        tokens = np.zeros((*lengths.shape, lengths.max(initial=1)), np.int32)
        prompt[_upto(prompt_lengths, prompt.shape[1])] = _joined([asked[record] for record in which])
        tokens[_upto(lengths, tokens.shape[2])] = _joined(self._read(self._answer_records, rows))
        return Taken(prompt, prompt_lengths, tokens, lengths, self._columns["weight"][rows], self._labels(rows))

    def _labels(self, rows: Int[np.ndarray, " b"]) -> Labels:
        votes = self._columns["votes"][rows]
        votes = np.where(np.isnan(votes), np.float32(0.5), votes)  # one that is absent decides nothing
        return Labels(
            prefer=self._columns["prefer"][rows],
            win=None,
            score=self._columns["scores"][rows] if self._scored else None,
            votes=votes,
            decided=(votes != 0.5).astype(np.float32),
            margin=self._columns["margin"][rows] if self._marked else None,
        )

    @cached_property
    def _prompt_records(self) -> Any:
        return self._records("prompts")

    @cached_property
    def _answer_records(self) -> Any:
        return self._records("answers")

    def _records(self, name: str) -> Any:
        import grain

        return grain.sources.ArrayRecordDataSource(
            [str(self.directory / f"{name}-{number:05}.array_record") for number in self._filled]
        )

    def _read(self, records: Any, numbers: Int[np.ndarray, " k"]) -> list[Int[np.ndarray, " s"]]:
        try:
            found = records.__getitems__(numbers.tolist()) if len(numbers) else []
        except Exception as error:  # damage shows as whatever the readers of ArrayRecord raise
            raise DataError(
                f"{self.directory}: cannot be read: {error}\n"
                "It is a converted copy of preference data: delete it to have it made anew"
            ) from error
        return [np.frombuffer(content, np.int32) for content in found]

    def _column(self, name: str) -> np.ndarray:
        try:
            return np.load(self.directory / f"{name}.npy", mmap_mode="r")
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{self.directory / name}.npy: cannot be read: {error}") from error

    def _picked(self, name: str) -> np.ndarray:
        return self._columns[name][self._columns["groups"]]


def _joined(pieces: Sequence[Int[np.ndarray, " _"]]) -> Int[np.ndarray, " s"]:
    return np.concatenate([np.zeros(0, np.int32), *pieces])


def _upto(counts: Int[np.ndarray, "*n"], width: int) -> np.ndarray:
    """True in the first `counts` of `width` cells."""
    return np.arange(width, dtype=np.int32) < counts[..., None]
