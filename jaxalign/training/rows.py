"""Training groups → token rows: a prompt once, then the responses of its groups as branches, each different one once.

Sharing the prompt between the responses of a group saves its recomputation (Wang & Hegde 2024, arXiv 2410.20305);
groups of one prompt may share a row too (`training.row_plan`). Shapes are chosen once for a whole fit, so the step
compiles once.
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
from jaxalign.types import Batch, Labels, Rows

T = TypeVar("T")

COLUMNS = 32
"""Rows, and the tables of what is scored, are made in multiples of so many tokens; shorter ones in powers of two from
`SHORTEST` on, since most of them would be padding."""

SHORTEST = 8

BRANCHES = 4
"""Branches of rows that groups share are made in multiples of so many."""

BLOCK = 64
"""Rows filled together: enough that Python's time is nothing, few enough that what is made on the way stays in a
processor's cache, a third of the time of all rows together at 512 rows of 3,072 tokens."""


RESPONSES = 2
"""Responses of a training group that a pairing makes, for what is planned before there are groups."""


@dataclass(frozen=True)
class RowShape:
    """Static sizes of the rows of a fit, tokens: s, q and t of the dimension letters. A row holds up to `groups` groups
    of one prompt and up to `branches` different responses (None: those of one group)."""

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

    Where `shape` has several groups a row, so many numbers that stand together are one row: groups of one prompt, none
    behind an empty place. `references` are log-prob sums by role for all groups; the batch carries those of its own.
    """
    each = shape.groups
    count = len(chosen) // each
    rows, mask = _blank(count, shape.branches or groups.responses, shape)
    at_once, columns = max(1, BLOCK // each), []
    for first in range(0, count, at_once):
        block = slice(first, first + at_once)
        numbers = chosen[first * each : (first + at_once) * each]
        taken = laid = _taken(groups, numbers)
        branch = None
        if each > 1:
            laid, branch = _merged(taken, _picked(groups.answers, numbers), numbers >= 0, shape)
        _fill(jax.tree.map(operator.itemgetter(block), rows), mask[block], first, laid)
        columns.append((taken.weight, taken.labels, taken.features, branch, _tabled(laid, shape)))
    weight, labels, features, branch, logps = jax.tree.map(lambda *blocks: np.concatenate(blocks), *columns)
    return Batch(rows, mask, weight, labels, _picked(dict(references), chosen), features, branch, logps)


def abstract_batch(
    shape: RowShape,
    groups: int,
    stored: Iterable[str],
    objectives: int = 1,
    responses: int = RESPONSES,
    width: int | None = None,
    logged: bool = False,
) -> Batch:
    """Shapes and dtypes of what `pack` makes of so many groups, with reference columns of the roles in `stored`, with
    features of that `width` where they are known, and with log-probs by token of groups that are `logged`."""
    each = shape.groups
    labels = Labels.unsaid(each, responses, objectives)
    references = {role: np.zeros((each, responses), np.float32) for role in stored}
    features = None if width is None else np.zeros((each, responses, width), np.float32)
    branch = None if each == 1 else np.zeros((each, responses), np.int32)
    rows, mask = _blank(1, shape.branches or responses, shape)
    logps = np.zeros(mask.shape, np.float32) if logged else None
    one = Batch(rows, mask, np.zeros(each, np.float32), labels, references, features, branch, logps)

    def several(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((groups // each * len(leaf), *leaf.shape[1:]), leaf.dtype)

    return jax.tree.map(several, one)


def stack_microbatches(batches: list[Batch]) -> Batch:
    """Batches of equal shapes with a new leading axis, the one gradient accumulation scans over. One is not copied."""
    return jax.tree.map(lambda *leaves: np.stack(leaves) if len(leaves) > 1 else leaves[0][None], *batches)


def _blank(count: int, responses: int, shape: RowShape) -> tuple[Rows, Bool[np.ndarray, "b r t"]]:
    """Arrays for `_fill`, blank where it writes the real tokens only; all else it writes everywhere."""

    def unwritten(width: int) -> np.ndarray:
        return np.empty((count, width), np.int32)

    row, scored = shape.row, shape.scored
    rows = Rows(
        tokens=np.zeros((count, row), np.int32),
        group=unwritten(row),
        branch=unwritten(row),
        position=unwritten(row),
        source=unwritten(scored),
        target=np.zeros((count, scored), np.int32),
        slot=np.full((count, scored), -1, np.int32),
    )
    return rows, np.empty((count, responses, shape.response), bool)


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


def _merged(
    taken: Taken, answers: Int[np.ndarray, "b r"], real: Bool[np.ndarray, " b"], shape: RowShape
) -> tuple[Taken, Int[np.ndarray, "b r"]]:
    """The groups of each row as one, of all their different responses; and which of these each response is."""
    count, responses = len(taken.weight) // shape.groups, taken.lengths.shape[1]
    places = shape.groups * responses  # of responses in a row
    first = np.zeros((count, shape.branches or places), np.int64)
    held = np.zeros(first.shape, bool)
    branch = np.zeros((count, places), np.int32)
    ends = real.reshape(count, shape.groups).sum(1) * responses
    for row, (own, end) in enumerate(zip(answers.reshape(count, places), ends, strict=True)):
        found, where, branch[row, :end] = np.unique(own[:end], return_index=True, return_inverse=True)
        first[row, : len(found)], held[row, : len(found)] = where, True
    tokens, logps = (
        None if table is None else np.take_along_axis(table.reshape(count, places, -1), first[:, :, None], axis=1)
        for table in (taken.tokens, taken.logps)
    )
    assert tokens is not None
    lengths = np.take_along_axis(taken.lengths.reshape(count, places), first, axis=1) * held
    laid = Taken(
        prompt=taken.prompt[:: shape.groups],
        prompt_lengths=taken.prompt_lengths[:: shape.groups],
        tokens=tokens,
        lengths=lengths,
        weight=np.ones(count, np.float32),
        labels=Labels.unsaid(count, first.shape[1]),
        logps=logps,
    )
    return laid, branch.reshape(-1, responses)


def _tabled(laid: Taken, shape: RowShape) -> Float[np.ndarray, "n k t"] | None:
    """The log-probs of the responses of rows, zeros behind each; None where nobody asked for them."""
    if laid.logps is None:
        return None
    table = np.zeros((*laid.lengths.shape, shape.response), np.float32)
    logps = laid.logps[:, :, : shape.response]
    table[:, :, : logps.shape[2]] = np.where(_upto(laid.lengths, logps.shape[2]), logps, 0.0)
    return table


def _fill(rows: Rows, mask: Bool[np.ndarray, "b r t"], first: int, taken: Taken) -> None:
    """Writes groups into the rows from `first` on, which `rows` and `mask` are views of.

    A row is made of pieces: the trunk, a branch for each response, padding. NumPy reads and writes the true cells of a
    mask row by row, so tokens come to their places in one assignment wherever both masks list them in this order.
    """
    trunk, lengths = taken.prompt_lengths.astype(np.int32), taken.lengths.astype(np.int32)
    before = np.cumsum(lengths, axis=1, dtype=np.int32) - lengths  # tokens of the branches before a branch
    scored = lengths.sum(1, dtype=np.int32)
    (count, branches), row = lengths.shape, rows.tokens.shape[1]
    pieces = np.column_stack([trunk, lengths, row - trunk - scored])

    def piecewise(values: Int[np.ndarray, "b k"]) -> Int[np.ndarray, "b s"]:
        return np.repeat(values.reshape(-1), pieces.reshape(-1)).reshape(count, row)

    inside, listed = _upto(trunk + scored, row), _upto(scored, rows.slot.shape[1])
    numbers = np.arange(first, first + count, dtype=np.int32)
    rows.group[:] = piecewise(np.column_stack([*[numbers] * (branches + 1), np.full_like(numbers, -1)]))
    rows.branch[:] = piecewise(np.tile(np.arange(branches + 2, dtype=np.int32) % (branches + 1), (count, 1)))
    rows.position[:] = (np.arange(row, dtype=np.int32) - piecewise(np.pad(before, ((0, 0), (1, 1))))) * inside

    asked, answers = taken.prompt, taken.tokens[:, :, : mask.shape[2]]
    said = _upto(lengths, answers.shape[2])
    texts = np.concatenate([asked, answers.reshape(count, -1)], axis=1)
    rows.tokens[inside] = texts[np.concatenate([_upto(trunk, asked.shape[1]), said.reshape(count, -1)], axis=1)]
    rows.target[listed] = answers[said]

    mask[:] = _upto(lengths, mask.shape[2])
    rows.slot[listed] = first * mask[0].size + np.flatnonzero(mask)
    # A token's predecessor is its neighbour in the row, but the first token of a branch follows the last of the trunk.
    rows.source[:] = (trunk[:, None] - 1 + np.arange(listed.shape[1], dtype=np.int32)) * listed
    line, branch = np.nonzero(lengths)
    rows.source[line, before[line, branch]] = trunk[line] - 1


def _upto(counts: Int[np.ndarray, "*n"], width: int) -> Bool[np.ndarray, "*n width"]:
    """True in the first `counts` of `width` cells."""
    return np.arange(width, dtype=np.int32) < counts[..., None]


def _picked(tree: T, chosen: Int[np.ndarray, " b"]) -> T:
    """Rows of all arrays of `tree`, zeros where chosen is -1."""

    def pick(values: np.ndarray) -> np.ndarray:
        found = values[np.maximum(chosen, 0)]
        found[chosen < 0] = 0
        return found

    return jax.tree.map(pick, tree)
