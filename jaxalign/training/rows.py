"""Training groups → token rows: a prompt once, then the responses of its groups as branches, each different one once.

Sharing the prompt between the responses of a group saves its recomputation (Wang & Hegde 2024, arXiv 2410.20305);
groups of one prompt may share such a tree too, and a row may hold the trees of many prompts (`training.row_rule`).
Shapes are chosen once for a whole fit, so the step compiles once.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxalign.data.groups import Taken, TrainingGroups
from jaxalign.mesh.rounding import rounded
from jaxalign.training.filling import apart, fill, merged, tabled, to_width
from jaxalign.types import Batch, Labels, Rows

T = TypeVar("T")

COLUMNS = 32
"""Rows, and the tables of what is scored, are made in multiples of so many tokens; shorter ones in powers of two from
`SHORTEST` on, since most of them would be padding."""

SHORTEST = 8

BRANCHES = 4
"""Branches of rows that groups share are made in multiples of so many, and places for groups of many prompts too."""

BLOCK = 64
"""Rows filled together: enough that Python's time is nothing, few enough that what is made on the way stays in a
processor's cache, a third of the time of all rows together at 512 rows of 3,072 tokens."""


RESPONSES = 2
"""Responses of a training group that a pairing makes, for what is planned before there are groups."""


@dataclass(frozen=True)
class RowShape:
    """Static sizes of the rows of a fit, tokens: s, q and t of the dimension letters. A row holds up to `groups` groups
    and up to `branches` different responses (None: those of one group)."""

    row: int
    scored: int
    response: int
    groups: int = 1
    branches: int | None = None

    @classmethod
    def holding(cls, row: int, scored: int, response: int, multiple: int = COLUMNS) -> "RowShape":
        """The smallest shape that holds so many tokens of each, few shapes being ever compiled."""
        return cls(*(rounded(size, _step(size, multiple)) for size in (row, scored, response)))

    def shared(self, groups: int, branches: int) -> "RowShape":
        """The same for rows of up to so many groups, which have up to so many different responses."""
        return replace(self, groups=groups, branches=rounded(branches, BRANCHES))

    @classmethod
    def longest(cls, prompt: int, response: int, responses: int = RESPONSES) -> "RowShape":
        """The shape that holds any group of responses of up to `response` tokens to a prompt of up to `prompt`."""
        return cls.holding(prompt + responses * response, responses * response, response)


@dataclass(frozen=True)
class Sizes:
    """The longest that an experiment allows, tokens: prompts, responses, and the rows made of a prompt and so many
    `responses`; `answers` are the different ones that a prompt has at most, None where only the data tell."""

    prompt: int
    response: int
    responses: int = RESPONSES
    answers: int | None = None

    @property
    def rows(self) -> RowShape:
        """The shape that holds any group."""
        return RowShape.longest(self.prompt, self.response, self.responses)

    @property
    def strayed(self) -> "Sizes":
        """With an answer to another prompt beside each group's own (`data.strays`), the same for all of a prompt's."""
        return replace(self, responses=self.responses + 1, answers=None if self.answers is None else self.answers + 1)

    def different(self, groups_a_row: int) -> int:
        """Different responses of so many groups of one prompt, at most."""
        return min(groups_a_row * self.responses, self.answers or groups_a_row * self.responses)

    def shared(self, groups_a_row: int) -> RowShape:
        """The shape that holds any row of so many groups."""
        if groups_a_row == 1:
            return self.rows
        branches = self.different(groups_a_row)
        return RowShape.longest(self.prompt, self.response, branches).shared(groups_a_row, branches)


def row_shape(groups: TrainingGroups, multiple: int = COLUMNS) -> RowShape:
    """The smallest shape that holds every group, rounded up to `multiple` so that few shapes are ever compiled."""
    lengths = groups.lengths
    scored = lengths.sum(-1)
    row, listed, response = (int(each.max(initial=1)) for each in (groups.prompt_lengths + scored, scored, lengths))
    return RowShape.holding(row, listed, response, multiple)


def _step(size: int, multiple: int) -> int:
    """What a size is rounded up to a multiple of."""
    return multiple if size >= COLUMNS else min(multiple, max(SHORTEST, 1 << (size - 1).bit_length()))


def pack(
    groups: TrainingGroups,
    chosen: Int[np.ndarray, " b"],
    shape: RowShape,
    references: Mapping[str, Float[np.ndarray, "g r"]],
) -> Batch:
    """The rows of the groups numbered `chosen`; -1 gives an empty place of weight 0. NumPy leaves.

    Where `shape` has several groups a row, so many numbers that stand together are one row: those of one prompt beside
    one another, none behind an empty place. `references` are log-prob sums by role for all groups; the batch carries
    those of its own.
    """
    each = shape.groups
    count = len(chosen) // each
    rows, mask = _blank(count, shape.branches or groups.responses, shape)
    at_once, columns = max(1, BLOCK // each), []
    for first in range(0, count, at_once):
        block = slice(first, first + at_once)
        numbers = chosen[first * each : (first + at_once) * each]
        taken = _taken(groups, numbers)
        laid, branch = apart(taken), None
        if each > 1:
            laid, branch = merged(groups, taken, numbers, each)
        fill(jax.tree.map(operator.itemgetter(block), rows), mask[block], first, laid, each)
        edited = None
        if taken.edited is not None:
            edited = to_width(np.where(numbers[:, None, None] >= 0, taken.edited, -1), shape.response)
        columns.append((taken.weight, taken.labels, taken.features, branch, tabled(laid, mask[block].shape), edited))
    weight, labels, features, branch, logps, edited = jax.tree.map(lambda *blocks: np.concatenate(blocks), *columns)
    return Batch(rows, mask, weight, labels, _picked(dict(references), chosen), features, branch, logps, edited)


def abstract_batch(
    shape: RowShape,
    groups: int,
    stored: Iterable[str],
    objectives: int = 1,
    responses: int = RESPONSES,
    width: int | None = None,
    logged: bool = False,
    edited: bool = False,
) -> Batch:
    """Shapes and dtypes of what `pack` makes of so many groups, with reference columns of the roles in `stored`, with
    features of that `width` where they are known, with log-probs by token of groups that are `logged`, and with what is
    `edited` in them."""
    each = shape.groups
    labels = Labels.unsaid(each, responses, objectives)
    references = {role: np.zeros((each, responses), np.float32) for role in stored}
    features = None if width is None else np.zeros((each, responses, width), np.float32)
    branch = None if each == 1 else np.zeros((each, responses), np.int32)
    rows, mask = _blank(1, shape.branches or responses, shape)
    logps = np.zeros(mask.shape, np.float32) if logged else None
    edits = np.zeros((each, responses, shape.response), np.int32) if edited else None
    one = Batch(rows, mask, np.zeros(each, np.float32), labels, references, features, branch, logps, edits)

    def several(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((groups // each * len(leaf), *leaf.shape[1:]), leaf.dtype)

    return jax.tree.map(several, one)


def stack_microbatches(batches: list[Batch]) -> Batch:
    """Batches of equal shapes with a new leading axis, the one gradient accumulation scans over. One is not copied."""
    return jax.tree.map(lambda *leaves: np.stack(leaves) if len(leaves) > 1 else leaves[0][None], *batches)


def _blank(count: int, responses: int, shape: RowShape) -> tuple[Rows, Bool[np.ndarray, "b r t"]]:
    """Arrays for `filling.fill`, blank where it writes the real tokens only; all else it writes everywhere."""

    def unwritten(width: int) -> np.ndarray:
        return np.empty((count, width), np.int32)

    row, scored = shape.row, shape.scored
    rows = Rows(
        tokens=np.zeros((count, row), np.int32),
        group=unwritten(row),
        branch=unwritten(row),
        position=unwritten(row),
        source=np.zeros((count, scored), np.int32),
        target=np.zeros((count, scored), np.int32),
        slot=np.full((count, scored), -1, np.int32),
    )
    return rows, np.zeros((count, responses, shape.response), bool)


def _taken(groups: TrainingGroups, chosen: Int[np.ndarray, " b"]) -> Taken:
    """The groups numbered `chosen`, zeros where that is -1: nothing is read for these."""
    real = chosen >= 0
    taken = groups.take(chosen[real])
    return taken if real.all() else jax.tree.map(lambda column: _spread(column, real), taken)


def _spread(column: np.ndarray, real: Bool[np.ndarray, " b"]) -> np.ndarray:
    """The rows of `column` where `real`, zeros elsewhere."""
    found = np.zeros((len(real), *column.shape[1:]), column.dtype)
    found[real] = column
    return found


def _picked(tree: T, chosen: Int[np.ndarray, " b"]) -> T:
    """Rows of all arrays of `tree`, zeros where chosen is -1."""

    def pick(values: np.ndarray) -> np.ndarray:
        found = values[np.maximum(chosen, 0)]
        found[chosen < 0] = 0
        return found

    return jax.tree.map(pick, tree)
