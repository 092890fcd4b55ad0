"""What a frozen trunk makes of answers, computed once: hidden states of last tokens, from which a head learns.

An answer is in many pairs and a prompt has many answers, so each different answer is read once, as one of several
branches of a row that holds its prompt: for pairs of a dozen answers each, an eighth of the tokens that the pairs have.
Later epochs, other heads and evaluations cost no pass through the trunk. Features are kept on the host, 4 d bytes an
answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.data.groups import PickedGroups, Taken, TrainingGroups, Wrapped
from jaxalign.mesh.flags import Options
from jaxalign.mesh.once import once
from jaxalign.mesh.rows import on_mesh, rows_here
from jaxalign.mesh.sharding import full_rows, replicated, row_sharding
from jaxalign.models.model import Model
from jaxalign.training.row_plan import in_rows
from jaxalign.training.rows import pack, row_shape
from jaxalign.training.views import last_hidden
from jaxalign.types import Batch, Labels, Params

BRANCHES = 16
"""Answers of a prompt that share a row."""
WIDTHS = 256
"""Rows are made in multiples of so many tokens: answers are few, and every width is a program."""


@dataclass(frozen=True)
class LastStates:
    """Hidden states of the last tokens of the answers in some rows, fp32: a part of what is computed once."""

    states: Float[np.ndarray, "b r d"]


class Answers:
    """The n different answers of some groups, as groups of up to `BRANCHES` answers to one prompt each; `index` says
    which answer response r of group g is. Branches beyond a prompt's answers are empty."""

    responses = BRANCHES

    def __init__(self, groups: TrainingGroups):
        self._groups = groups
        _, firsts, index = np.unique(groups.answers, return_index=True, return_inverse=True)
        self.index = index.reshape(len(groups), groups.responses)
        self._places = np.stack(np.divmod(firsts, groups.responses), -1)
        """group and response where each answer was first seen"""
        self.numbers = _in_rows(np.asarray(groups.prompts)[self._places[:, 0]], firsts)
        """of the answers in each row, -1 where a branch is empty"""

    @property
    def count(self) -> int:
        """n, the different answers."""
        return len(self._places)

    @property
    def answers(self) -> Int[np.ndarray, "g r"]:
        """-1 for all that are empty."""
        return self.numbers

    @cached_property
    def _firsts(self) -> Int[np.ndarray, " g"]:
        """The group in which the first answer of each row was seen."""
        return self._places[self.numbers[:, 0], 0]

    @property
    def prompts(self) -> Int[np.ndarray, " g"]:
        return self._groups.prompts[self._firsts]

    @property
    def prompt_lengths(self) -> Int[np.ndarray, " g"]:
        return self._groups.prompt_lengths[self._firsts]

    @cached_property
    def lengths(self) -> Int[np.ndarray, "g r"]:
        found = self._groups.lengths[self._places[:, 0], self._places[:, 1]]
        return np.where(self.numbers >= 0, found[self.numbers], 0)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, numbers: Int[np.ndarray, " b"]) -> Taken:
        wanted = self.numbers[numbers]
        # empty branches read the row's first answer; none is read where a process has no row of a batch
        group, response = self._places[np.where(wanted >= 0, wanted, wanted[:, :1]).ravel()].T
        taken = self._groups.take(group)
        tokens = taken.tokens[np.arange(len(group)), response].reshape(*wanted.shape, taken.tokens.shape[-1])
        count = len(numbers)
        return Taken(
            prompt=taken.prompt[::BRANCHES],
            prompt_lengths=taken.prompt_lengths[::BRANCHES],
            tokens=tokens,
            lengths=self.lengths[numbers],
            weight=np.ones(count, np.float32),
            labels=Labels.unsaid(count, BRANCHES),
        )

    def blocks(self, size: int) -> list[Int[np.ndarray, " b"]]:
        """Numbers of rows to be read together, those of like lengths, so that padding is little."""
        order = np.argsort(self.prompt_lengths + self.lengths.sum(1), kind="stable")
        return [order[start : start + size] for start in range(0, len(order), size)]


@dataclass(frozen=True)
class Featured(Wrapped):
    """Groups whose features are known: nothing else of their texts is read, and a row of theirs is one token."""

    table: Float[np.ndarray, "n d"]
    index: Int[np.ndarray, "g r"]

    @property
    def prompt_lengths(self) -> Int[np.ndarray, " g"]:
        return np.ones(len(self.groups), np.int32)

    @property
    def lengths(self) -> Int[np.ndarray, "g r"]:
        return np.zeros(self.index.shape, np.int32)

    @property
    def answers(self) -> Int[np.ndarray, "g r"]:
        return self.index

    def take(self, numbers: Int[np.ndarray, " b"]) -> Taken:
        said, count = self.groups.take(numbers), len(numbers)
        return Taken(
            prompt=np.zeros((count, 1), np.int32),
            prompt_lengths=np.ones(count, np.int32),
            tokens=np.zeros((count, self.responses, 0), np.int32),
            lengths=np.zeros((count, self.responses), np.int32),
            weight=said.weight,
            labels=said.labels,
            features=self.table[self.index[numbers]],
        )


@once
def reading(model: Model, mesh: jax.sharding.Mesh, options: Options | None) -> Any:
    """Features of a batch of rows, jitted: (parameters, batch) → [b r d], which every process keeps."""
    return jax.jit(partial(_hidden, model), out_shardings=replicated(mesh), compiler_options=options)


class FeatureReader:
    """Features of the answers of a row, `batch_size` rows together; compiled once a row shape."""

    def __init__(self, model: Model, mesh: jax.sharding.Mesh, batch_size: int, options: Options | None = None):
        self.batch_size = full_rows(mesh, batch_size)
        self._mesh, self._here = mesh, rows_here(row_sharding(mesh), self.batch_size)
        self._run = reading(model, mesh, options)

    def __call__(self, params: Params, answers: Answers, block: Int[np.ndarray, " b"]) -> Float[np.ndarray, "b r d"]:
        """Of the rows numbered `block`, at most `batch_size`."""
        chosen = np.full(self.batch_size, -1)
        chosen[: len(block)] = block
        shape = row_shape(PickedGroups(answers, block), WIDTHS)
        batch = on_mesh(pack(answers, np.where(self._here, chosen, -1), shape, {}), row_sharding(self._mesh))
        return np.asarray(self._run(params, batch))[: len(block)]


def table_of(
    answers: Answers, size: int, make: Callable[[int, Int[np.ndarray, " b"]], Float[np.ndarray, "b r d"]]
) -> Float[np.ndarray, "n d"]:
    """The features of all answers, from what `make(k, rows)` finds of the k-th block of rows."""
    blocks = answers.blocks(size)
    found = [make(k, block) for k, block in enumerate(blocks)]
    table = np.zeros((answers.count, found[0].shape[-1]), np.float32)
    for block, values in zip(blocks, found, strict=True):
        numbers = answers.numbers[block]
        table[numbers[numbers >= 0]] = values[numbers >= 0]
    return table


def _hidden(model: Model, params: Params, batch: Batch) -> Float[Array, "b r d"]:
    return last_hidden(model, params, batch.rows, batch.mask.shape[1]).astype(jnp.float32)


def _in_rows(prompts: Int[np.ndarray, " n"], firsts: Int[np.ndarray, " n"]) -> Int[np.ndarray, "g r"]:
    """The numbers of answers to these prompts in rows of one prompt, -1 behind them: prompts in the order in which they
    are first seen, and so the answers of each."""
    _, prompt = np.unique(prompts, return_inverse=True)
    seen = np.full(int(np.max(prompt)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(seen, prompt, firsts)
    return in_rows(seen[prompt], np.lexsort((firsts, seen[prompt])), BRANCHES)
