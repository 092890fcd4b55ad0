"""The order in which a run sees prompts and groups: by index, with a position that JSON can hold.

Order comes from Grain: what is seen at which index is a pure function of the seed and the index, and a saved position
names the data it belongs to. Grain takes a good part of a second to import, so only the functions that use it do.
"""

import functools
import zlib
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from jaxalign.data.levelled import Costs, levelled
from jaxalign.data.prompts import PromptSet
from jaxalign.errors import DataError
from jaxalign.types import Prompt

T = TypeVar("T")


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


class PromptStream(Order[Prompt]):
    """An endless shuffled stream of prompts: epoch after epoch, each in an order of its own.

    `stream[index]` is a pure function of (prompts, seed, index), so what comes next needs no history.
    """

    def __init__(self, prompts: PromptSet, seed: int):
        import grain

        self._there = len(prompts)
        super().__init__(
            grain.MapDataset.source(prompts).seed(seed).shuffle().repeat(),
            {"fingerprint": prompts.fingerprint, "size": len(prompts), "seed": int(seed)},
        )

    def take(self, start: int, count: int) -> tuple[Prompt, ...]:
        """The `count` prompts from index `start` on."""
        return tuple(self[index] for index in range(start, start + count))

    def once(self, count: int) -> tuple[Prompt, ...]:
        """The first `count` prompts without those that come again: all there are at most."""
        return self.take(0, min(count, self._there))


def endless(count: int, seed: int, start: int, length: int) -> np.ndarray:
    """Int[length]: what stands at `start` and behind it in an endless order of the numbers below `count`, which has
    every number once before any again, each time in an order of its own."""
    first, last = start // count, -(-(start + length) // count)
    orders = [np.random.default_rng([seed, epoch]).permutation(count) for epoch in range(first, last)]
    return np.concatenate(orders)[start - first * count :][:length]


class GroupOrder(Order[np.ndarray]):
    """Numbers of `count` groups, or of units of groups, in batches Int[size]: every epoch has each once, shuffled anew.

    The last batch of an epoch is filled up with -1; none is dropped. Batch k is a pure function of (count, size,
    epochs, seed, k), and where their `costs` are given of these: then batches are level (`levelled`).
    """

    def __init__(self, count: int, size: int, epochs: int, seed: int, costs: Costs | None = None):
        import grain

        if count < 1:
            raise DataError("no groups to train on")
        identity: dict[str, int | str] = {"count": count, "size": size, "epochs": epochs, "seed": int(seed)}
        if costs is not None:
            identity["level"] = zlib.crc32(np.stack([np.asarray(each, np.int64) for each in costs]).tobytes())
        super().__init__(grain.MapDataset.source(_ShuffledBatches(count, size, epochs, seed, costs)), identity)


class _ShuffledBatches:
    """Random access to the batches of all epochs; one permutation an epoch, kept while it is used."""

    def __init__(self, count: int, size: int, epochs: int, seed: int, costs: Costs | None):
        self._count, self._size, self._epochs, self._seed, self._costs = count, size, epochs, seed, costs
        self._permutation = functools.lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return self._epochs * -(-self._count // self._size)

    def __getitem__(self, index: int) -> np.ndarray:
        epoch, batch = divmod(index, -(-self._count // self._size))
        chosen = self._permutation(epoch)[batch * self._size : (batch + 1) * self._size]
        return np.pad(chosen, (0, self._size - len(chosen)), constant_values=-1).astype(np.int32)

    def _shuffled(self, epoch: int) -> np.ndarray:
        found = np.random.default_rng([self._seed, epoch]).permutation(self._count).astype(np.int32)
        return found if self._costs is None else levelled(found, self._costs, self._size)
