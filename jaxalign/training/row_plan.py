"""Which groups share a row, for a whole set of them: those of one prompt, so that it is computed once for all of them,
and an answer that is in several of them too.

All pairs of m answers are m (m - 1) / 2 rows of two answers, or one row of m: of a prompt that is as long as four
answers, six rows of 6 lengths or one of 8 for m = 4. What each group comes to is the same to rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Int

from jaxalign.data.groups import TrainingGroups
from jaxalign.training.rows import RowShape, row_shape
from jaxalign.types import pytree


@dataclass(frozen=True)
class RowPlan:
    """Rows of up to p groups of one prompt each: their numbers, -1 behind them where there are fewer. `shapes` hold
    ever more of the rows, the last one all, and `least` is the first of them that holds a row."""

    rows: Int[np.ndarray, "n p"]
    shapes: tuple[RowShape, ...]
    least: Int[np.ndarray, " n"]

    @property
    def shape(self) -> RowShape:
        """The one that holds any row."""
        return self.shapes[-1]

    def batch(self, numbers: Int[np.ndarray, " m"]) -> tuple[Int[np.ndarray, "m p"], RowShape]:
        """The groups of the rows numbered so (-1: of none), and the first shape that holds all these rows."""
        real = numbers >= 0
        largest = self.least[numbers[real]].max(initial=0)
        return np.where(real[:, None], self.rows[numbers], -1), self.shapes[largest]

    def batches(self, size: int, first: int = 0) -> Iterator[tuple[Int[np.ndarray, "m p"], RowShape]]:
        """The rows behind those that hold the `first` groups, `size` at a time and at the end none beside them."""
        begin = int((np.cumsum((self.rows >= 0).sum(1)) <= first).sum()) if first else 0
        for start in range(begin, len(self.rows), size):
            numbers = np.arange(start, start + size)
            yield self.batch(np.where(numbers < len(self.rows), numbers, -1))


def plan_rows(groups: TrainingGroups, groups_a_row: int = 1, shapes: int = 1) -> RowPlan:
    """Every group in one row, and as few rows as can be: a row for each group, or up to `groups_a_row` in each, those
    that have answers in common together. With several `shapes`, at most so many, rows stand by length; with one of each
    rows are the groups in their order."""
    if not len(groups):
        return RowPlan(np.zeros((0, groups_a_row), np.int64), (row_shape(groups),), np.zeros(0, np.int64))
    if groups_a_row == shapes == 1:
        each = np.arange(len(groups), dtype=np.int32)[:, None]
        return RowPlan(each, (row_shape(groups),), np.broadcast_to(np.int32(0), len(groups)))
    rows = in_rows(np.asarray(groups.prompts), _by_answers(groups), groups_a_row)
    measured = _measured(groups, rows)
    order = np.argsort(measured.row, kind="stable") if shapes > 1 else np.arange(len(rows))
    rows, measured = rows[order], jax.tree.map(lambda column: column[order], measured)
    ends = np.unique(np.arange(1, shapes + 1) * len(rows) // shapes)
    made = [_shape(jax.tree.map(lambda column, end=end: column[:end], measured), rows.shape[1]) for end in ends if end]
    least = np.searchsorted(ends[ends > 0], np.arange(len(rows)), side="right")
    return RowPlan(rows, tuple(made), least)


def in_rows(prompts: Int[np.ndarray, " g"], order: Int[np.ndarray, " g"], most: int) -> Int[np.ndarray, "n p"]:
    """The numbers of `order`, which has those of one prompt together, in rows of up to `most` of one prompt, and -1
    behind them."""
    ordered = prompts[order]
    begins = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
    place = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))  # among those of its prompt
    row = np.cumsum(place % most == 0) - 1
    rows = np.full((row[-1] + 1, most), -1)
    rows[row, place % most] = order
    return rows


def row_tokens(groups: TrainingGroups, rows: Int[np.ndarray, "n p"]) -> int:
    """Tokens of rows of the groups numbered so (-1: none): each prompt once, and each response laid behind it."""
    held = rows[rows[:, 0] >= 0]
    _, lengths = _laid(groups, held)
    return int(groups.prompt_lengths[held[:, 0]].sum() + lengths.sum())


@pytree
class _Measured:
    """Of some rows: tokens, those that are scored, those of the longest response, and responses laid there."""

    row: Int[np.ndarray, " n"]
    scored: Int[np.ndarray, " n"]
    response: Int[np.ndarray, " n"]
    branches: Int[np.ndarray, " n"]


def _measured(groups: TrainingGroups, rows: Int[np.ndarray, "n p"]) -> _Measured:
    line, lengths = _laid(groups, rows)
    scored, longest = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    np.add.at(scored, line, lengths)
    np.maximum.at(longest, line, lengths)
    branches = np.bincount(line, minlength=len(rows))
    return _Measured(groups.prompt_lengths[rows[:, 0]] + scored, scored, longest, branches)


def _shape(measured: _Measured, groups_a_row: int) -> RowShape:
    """The shape that holds them, rounded up so that few shapes are ever compiled."""
    sizes = (max(int(each.max()), 1) for each in (measured.row, measured.scored, measured.response))
    shape = RowShape.holding(*sizes)
    return shape if groups_a_row == 1 else shape.shared(groups_a_row, int(measured.branches.max()))


def _by_answers(groups: TrainingGroups) -> Int[np.ndarray, " g"]:
    """The groups prompt by prompt, and of a prompt by the answer of theirs that fewest groups have: beside it they have
    what many have, such as the one that all others are compared with."""
    _, which, counts = np.unique(groups.answers, return_inverse=True, return_counts=True)
    which = which.reshape(len(groups), -1)
    rarest = np.argmin(counts[which], axis=1)
    return np.lexsort((which[np.arange(len(groups)), rarest], groups.prompts))


def _laid(groups: TrainingGroups, rows: Int[np.ndarray, "n p"]) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Row and length, tokens, of each response that each row has: of the same ones of a row that groups share, one."""
    line, place = np.nonzero(rows >= 0)
    chosen = rows[line, place]
    line, lengths = np.repeat(line, groups.responses), groups.lengths[chosen].ravel()
    if rows.shape[1] == 1:  # a group in a row of its own lies there as it is, with what it says twice
        return line, lengths
    answers = groups.answers[chosen].ravel()
    order = np.lexsort((answers, line))
    same = (np.diff(answers[order]) == 0) & (np.diff(line[order]) == 0)
    first = order[np.concatenate([np.ones(min(len(order), 1), bool), ~same])]
    return line[first], lengths[first]
