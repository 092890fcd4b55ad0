"""Tokenised comparisons on disk: training groups by number, of which memory holds those that are taken.

Ids are records of ArrayRecord files, read by index through Grain; lengths and labels are memory-mapped columns. A host
reads the records that it takes, and no others. What is held of all of them is where they lie: 16 bytes a pair, and some
80 more that are free again when the files have been opened. (Left in the files, `index_storage_option:offloaded`, they
make reading fifty times slower.)
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxalign.data.comparisons import building
from jaxalign.data.comparisons.building import Telling
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.comparisons.tokenised import WORKERS, Encoder
from jaxalign.data.groups import Taken
from jaxalign.errors import DataError
from jaxalign.types import Labels, Prompt

AT_ONCE = 1 << 16
"""Digests that are compared at once."""


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
        self.different_prompts: int = info["prompts"]
        self._seen, self._filled = info["seen"], info["filled"]
        if not self._filled:
            told = "".join(f", {count} with {why}" for why, count in self.left_out.items())
            raise DataError(f"{origin}: nothing to train on; {sum(self.left_out.values())} left out{told}")
        self._columns = {name: self._column(name) for name in building.COLUMNS}
        self._groups = self._column("groups") if info["mixed"] else None
        self._scored, self._marked = (name in info["given"] for name in ("scores", "margin"))

    def __len__(self) -> int:
        return len(self._columns["weight"] if self._groups is None else self._groups)

    @property
    def responses(self) -> int:
        """Answers of a group."""
        return self._columns["lengths"].shape[1]

    @cached_property
    def prompts(self) -> Int[np.ndarray, " g"]:
        """A number for every group's prompt: a digest of what it says."""
        return self._of_groups("prompt_key").view(np.int64)

    @cached_property
    def prompt_lengths(self) -> Int[np.ndarray, " g"]:
        """Tokens of every group's prompt."""
        return self._of_groups("prompt_lengths")

    @cached_property
    def lengths(self) -> Int[np.ndarray, "g r"]:
        """Tokens of every answer."""
        return self._of_groups("lengths")

    @cached_property
    def answers(self) -> Int[np.ndarray, "g r"]:
        """A number for every answer: 64 bits of what it and its prompt say."""
        return self._of_groups("answer_keys")

    @cached_property
    def weight(self) -> Float[np.ndarray, " g"]:
        """Every group's share in the loss before normalisation."""
        return self._of_groups("weight")

    def prompts_in(self, other: "Store") -> int:
        """How many of the different prompts are in `other` too."""
        own, theirs = np.unique(self._columns["prompt_key"]), other._columns["prompt_key"]
        found = np.zeros(len(own), bool)
        for start in range(0, len(theirs), AT_ONCE):
            block = theirs[start : start + AT_ONCE]
            place = np.minimum(np.searchsorted(own, block), len(own) - 1)
            found[place[own[place] == block]] = True
        return int(found.sum())

    def first(self, count: int) -> tuple[Prompt, ...]:
        """The first prompts, none twice, as they were before they were tokenised; of those that were kept so."""
        found = {json.dumps(each["messages"]): each for each in reversed(self._seen)}
        ordered = reversed(found.values())
        return tuple(Prompt(each["id"], tuple(each["messages"]), each["tools"]) for each in ordered)[:count]

    def take(self, numbers: Int[np.ndarray, " b"]) -> Taken:
        """The groups numbered so."""
        rows = numbers if self._groups is None else self._groups[numbers]
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

        paths = [str(self.directory / f"{name}-{number:05}.array_record") for number in self._filled]
        return grain.sources.ArrayRecordDataSource(paths)

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
            return np.asarray(np.load(self.directory / f"{name}.npy", mmap_mode="r"))
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{self.directory / name}.npy: cannot be read: {error}") from error

    def _of_groups(self, name: str) -> np.ndarray:
        """The column on the disk where a group is a comparison; a copy where a mixture has some more often."""
        column = self._columns[name]
        return column if self._groups is None else column[self._groups]


def _joined(pieces: Sequence[Int[np.ndarray, " _"]]) -> Int[np.ndarray, " s"]:
    return np.concatenate([np.zeros(0, np.int32), *pieces])


def _upto(counts: Int[np.ndarray, "*n"], width: int) -> np.ndarray:
    """True in the first `counts` of `width` cells."""
    return np.arange(width, dtype=np.int32) < counts[..., None]
