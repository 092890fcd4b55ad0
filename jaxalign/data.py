"""Prompts: where they come from, and the order in which a run sees them.

A prompt source is a frozen dataclass that a config file names; `open(cache)` gives a PromptSet. Built-in and JSONL
prompts are validated and converted once to a TFDS dataset of ArrayRecord files below `cache`; every source but the
inline one is then read by random access through TFDS. Order comes from Grain: what is seen at which index is a pure
function of the seed and the index, and a saved position names the data it belongs to.
"""

import functools
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from jaxalign import jsonl, tfds_store
from jaxalign.errors import DataError
from jaxalign.jsonl import RowError
from jaxalign.types import Prompt

# Grain takes a good part of a second to import, so only the functions that use it do: a config file that names a
# prompt source, and `--help`, stay quick.

T = TypeVar("T")

LAYOUT = 2
"""Version of the converted datasets and of the validation they went through; part of their directory's name."""


class PromptSet:
    """Prompts by index. `fingerprint` is a sha256 over the ids and messages in their order.

    Every prompt is read once to compute it, so a damaged record raises DataError here and not in the middle of a
    run. `origin` is what such an error names.
    """

    def __init__(self, records: Sequence[T], decode: Callable[[int, T], Prompt], limit: int | None, origin: str):
        self._records, self._decode, self._origin = records, decode, origin
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
        yield from _limit_problems(self.limit)
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
            return PromptSet(records, lambda _, record: tfds_store.read_prompt(record), self.limit, str(directory))
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
        return _limit_problems(self.limit)

    def open(self, cache: pathlib.Path) -> PromptSet:
        """The prompts, converted below `cache` unless they are there."""
        path = pathlib.Path(__file__).parent / "prompts" / f"{self.split}.jsonl"
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
        return _limit_problems(self.limit)

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


def _limit_problems(limit: int | None) -> Iterator[str]:
    if limit is not None and limit < 1:
        yield f"limit must be at least 1, or None for all prompts, got {limit}"


def _id(row: dict[str, Any]) -> str | None:
    value = row.get("id")
    if type(value) is int:  # not a bool, which is an int too
        return str(value)
    return None if value is None else jsonl.check_text(value, "id")


# --------------------------------------------------------------------------------------------------------------
# Order


class Order(Generic[T]):
    """Elements of a Grain dataset by index, and a position in them that JSON can hold.

    `identity` is everything that decides the order. A position carries it, since Grain itself would continue with
    another stream without a word; here the position of another order raises DataError, naming what differs.
    """

    def __init__(self, dataset: Any, identity: Mapping[str, int | str]):
        self._dataset, self._identity = dataset, identity

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> T:
        if not 0 <= index < len(self):
            raise IndexError(f"element {index} of {len(self)}")
        return self._dataset[index]

    def state(self, index: int) -> dict[str, Any]:
        """The position before element `index`."""
        return {**self._identity, "next_index": index}

    def check(self, state: Mapping[str, Any]) -> int:
        """Index of the element that comes next in `state`; DataError unless it is a position in this order."""
        if odd := sorted(set(state) ^ set(self.state(0))):
            raise DataError(f"saved data position: {', '.join(odd)}: missing or unknown")
        for name, here in self._identity.items():
            if state[name] != here:
                raise DataError(f"saved data position: {name}: {state[name]!r} when saved, {here!r} in this run")
        index = state["next_index"]
        if type(index) is not int or not 0 <= index <= len(self):
            raise DataError(f"saved data position: next_index: {index!r} is none of 0 … {len(self)}")
        return index

    def iterator(self, state: Mapping[str, Any] | None = None) -> "ExactIterator[T]":
        """From the beginning, or from the position that `state` holds."""
        return ExactIterator(self, self._dataset, 0 if state is None else self.check(state))


class ExactIterator(Generic[T]):
    """Grain's iterator over an order; `get_state` gives the position of the element that comes next."""

    def __init__(self, order: Order[T], dataset: Any, start: int):
        import grain

        self._order = order
        self._elements = iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))
        self._elements.set_state({"next_index": start})

    def __iter__(self) -> "ExactIterator[T]":
        return self

    def __next__(self) -> T:
        return next(self._elements)

    def get_state(self) -> dict[str, Any]:
        """What `Order.iterator` continues from."""
        return self._order.state(self._elements.get_state()["next_index"])


class PromptStream(Order[Prompt]):
    """An endless shuffled stream of prompts: epoch after epoch, each in an order of its own.

    `stream[index]` is a pure function of (prompts, seed, index), so what comes next needs no history.
    """

    def __init__(self, prompts: PromptSet, seed: int):
        import grain

        super().__init__(
            grain.MapDataset.source(prompts).seed(seed).shuffle().repeat(),
            {"fingerprint": prompts.fingerprint, "size": len(prompts), "seed": int(seed)},
        )

    def take(self, start: int, count: int) -> tuple[Prompt, ...]:
        """The `count` prompts from index `start` on."""
        return tuple(self[index] for index in range(start, start + count))


class GroupOrder(Order[np.ndarray]):
    """Numbers of `count` groups in batches Int[size]: every epoch has each group once, shuffled anew.

    The last batch of an epoch is filled up with -1; none is dropped. Batch k is a pure function of (count, size,
    epochs, seed, k).
    """

    def __init__(self, count: int, size: int, epochs: int, seed: int):
        import grain

        if count < 1:
            raise DataError("no groups to train on")
        super().__init__(
            grain.MapDataset.source(_ShuffledBatches(count, size, epochs, seed)),
            {"count": count, "size": size, "epochs": epochs, "seed": int(seed)},
        )


class _ShuffledBatches:
    """Random access to the batches of all epochs; one permutation an epoch, kept while it is used."""

    def __init__(self, count: int, size: int, epochs: int, seed: int):
        self._count, self._size, self._epochs, self._seed = count, size, epochs, seed
        self._permutation = functools.lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return self._epochs * -(-self._count // self._size)

    def __getitem__(self, index: int) -> np.ndarray:
        epoch, batch = divmod(index, -(-self._count // self._size))
        chosen = self._permutation(epoch)[batch * self._size : (batch + 1) * self._size]
        return np.pad(chosen, (0, self._size - len(chosen)), constant_values=-1).astype(np.int32)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self._count)
