"""Rows of a whole set of groups, to be gone through in batches: which groups each holds, and shapes that hold them.

`plan_rows` puts groups of one prompt into a row, so that it is computed once for all of them, and an answer that is in
several of them too. All pairs of m answers are m (m - 1) / 2 rows of two answers, or one row of m: of a prompt that is
as long as four answers, six rows of 6 lengths or one of 8 for m = 4. What each group comes to is the same to rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Bool, Int

from jaxalign.data.groups import TrainingGroups
from jaxalign.data.levelled import Costs
from jaxalign.training.rows import RowShape, row_shape
from jaxalign.training.trees import Measured, by_answers, different


@dataclass(frozen=True)
class RowPlan:
    """Rows of up to p groups each: their numbers, -1 behind them where there are fewer. `shapes` hold ever more of the
    rows, the last one all, and `least` is the first of them that holds a row."""

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

    def batches(
        self, size: int, known: Bool[np.ndarray, " g"] | None = None
    ) -> Iterator[tuple[Int[np.ndarray, "m p"], RowShape]]:
        """The rows, `size` at a time and at the end none beside them; without batches whose groups are all `known`."""
        for start in range(0, len(self.rows), size):
            numbers = np.arange(start, start + size)
            rows, shape = self.batch(np.where(numbers < len(self.rows), numbers, -1))
            if known is None or not known[rows[rows >= 0]].all():
                yield rows, shape


def plan_rows(groups: TrainingGroups, groups_a_row: int = 1, shapes: int = 1) -> RowPlan:
    """Every group in one row, and as few rows as can be: a row for each group, or up to `groups_a_row` in each, those
    that have answers in common together. With several `shapes`, at most so many, rows stand by length; with one of each
    rows are the groups in their order."""
    if not len(groups):
        return RowPlan(np.zeros((0, groups_a_row), np.int64), (row_shape(groups),), np.zeros(0, np.int64))
    if groups_a_row == shapes == 1:
        each = np.arange(len(groups), dtype=np.int32)[:, None]
        return RowPlan(each, (row_shape(groups),), np.broadcast_to(np.int32(0), len(groups)))
    rows = in_rows(np.asarray(groups.prompts), by_answers(groups, np.arange(len(groups))), groups_a_row)
    found = of_rows(groups, rows)
    order = np.argsort(found.row, kind="stable") if shapes > 1 else np.arange(len(rows))
    made, least = shapes_of(jax.tree.map(lambda column: column[order], found), rows.shape[1], shapes)
    return RowPlan(rows[order], made, least)


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


def shapes_of(rows: Measured, groups_a_row: int, count: int) -> tuple[tuple[RowShape, ...], Int[np.ndarray, " n"]]:
    """Up to `count` shapes for rows that stand by length, each for as many of them, rounded up so that few are ever
    compiled; and the first that holds each row."""
    ends = np.unique(np.arange(1, count + 1) * len(rows.row) // count)
    ends = ends[ends > 0]
    made = tuple(shape_of(jax.tree.map(lambda column, end=end: column[:end], rows), groups_a_row) for end in ends)
    return made, np.searchsorted(ends, np.arange(len(rows.row)), side="right")


def shape_of(rows: Measured, groups_a_row: int) -> RowShape:
    """The shape that holds them all."""
    sizes = (max(int(each.max()), 1) for each in (rows.row, rows.scored, rows.response))
    shape = RowShape.holding(*sizes)
    return shape if groups_a_row == 1 else shape.shared(groups_a_row, int(rows.branches.max()))


def row_tokens(groups: TrainingGroups, rows: Int[np.ndarray, "n p"]) -> int:
    """Tokens of rows of the groups numbered so (-1: none): each prompt once, and each response laid behind it."""
    return int(of_rows(groups, rows).row.sum())


def costs_of(groups: TrainingGroups, rows: Int[np.ndarray, "n p"]) -> Costs:
    """What units of one prompt each cost."""
    first = rows[:, 0]
    trunk = groups.prompt_lengths[first]
    return Costs(of_rows(groups, rows).row - trunk, trunk, groups.prompts[first])


def of_rows(groups: TrainingGroups, rows: Int[np.ndarray, "n p"]) -> Measured:
    """Sizes of such rows."""
    line, place = np.nonzero(rows >= 0)
    numbers = rows[line, place]
    prompts = groups.prompts[numbers]
    begins = np.ones(len(line), bool)
    begins[1:] = (np.diff(line) != 0) | (np.diff(prompts) != 0)
    if rows.shape[1] == 1:  # a group in a row of its own lies there as it is, with what it says twice
        at, lengths = np.repeat(line, groups.responses), groups.lengths[numbers].ravel()
    else:
        at, lengths = different(groups, numbers, line)
    said = Measured(lengths, lengths, lengths, np.ones_like(lengths)).put(at, len(rows))
    trunks = np.bincount(line[begins], groups.prompt_lengths[numbers[begins]], len(rows)).astype(np.int64)
    return Measured(trunks + said.row, said.scored, said.response, said.branches)
