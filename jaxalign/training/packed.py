"""Rows of many prompts, filled to the brim: padding and prompts that are computed twice both go.

    a step     its groups become trees, one for each prompt, and these are put into the step's rows `evenly` (`bins`).
               A step has the fewest rows that hold the fullest batch of the fit within `tokens`, and rows are only as
               long as the fullest of them all: one shape, compiled once, and the same for every device and host
    a pass     all groups at once, likewise: what is seen one by one needs no batches

Every step has its groups, whatever batches they are in; a batch of few tokens has its rows less full. With several
shapes such batches have narrower ones, and `Fit.batches` "level" draws batches that have about as many tokens.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool, Int

from jaxalign.data.groups import PickedGroups, TrainingGroups
from jaxalign.errors import DataError
from jaxalign.mesh.rounding import rounded
from jaxalign.training.bins import evenly, fewest
from jaxalign.training.row_plan import RowPlan, plan_rows, shape_of, shapes_of
from jaxalign.training.row_rule import Drawn, Laid, Planned
from jaxalign.training.rows import BRANCHES, RowShape, Sizes
from jaxalign.training.trees import Measured, Trees, grown

PARTS = (1, 2, 4, 8)
"""Trees of a pass are cut to a row, or to a part of one, whichever needs the fewest rows: a prompt of many groups whose
trees nearly fill a row each leaves gaps that nothing fills; smaller ones have it computed more often."""


@dataclass(frozen=True)
class Packed:
    """Rows of many prompts: as many of their groups as `tokens` hold. Groups of one prompt that are in a step are one
    tree: it is computed once, and an answer that is in several of them too."""

    tokens: int = 4096
    """of a row, at most"""
    groups: int = 1
    """groups of one prompt that are drawn together, at most: a step has batch_size / groups such units"""
    shapes: int = 1
    """widths of a fit's rows, at most; each is compiled, and a batch of few tokens takes a narrow one"""
    too_long: Literal["refuse", "drop"] = "refuse"
    """what becomes of a group that is longer than a row: the run is refused, or it is left out of fits and counted"""

    def problems(self) -> Iterable[str]:
        for name, value in (("tokens", self.tokens), ("groups", self.groups), ("shapes", self.shapes)):
            if value < 1:
                yield f"{name} must be at least 1, got {value}"

    def rows_a_step(self, batch_size: int) -> None:
        """As many as its groups need."""
        return

    def units(self, groups: TrainingGroups) -> RowPlan:
        """Groups of one prompt, as each would lie in a row of its own."""
        return plan_rows(groups, self.groups)

    def steps(self, groups: TrainingGroups, units: RowPlan, drawn: Drawn, multiple: int) -> "PackedSteps":
        """Rows of the groups that are drawn."""
        return PackedSteps(groups, units.rows, drawn, self.tokens, multiple, self.shapes)

    def passes(self, groups: TrainingGroups, size: int) -> RowPlan:
        """Rows of `tokens` at most, as many as are a multiple of `size`; of longer groups one each, behind them."""
        if not len(groups):
            return plan_rows(groups)
        trees, long, count = min(
            (self._filled(groups, self.tokens // part, size) for part in PARTS), key=lambda found: found[2]
        )
        short: Measured = jax.tree.map(lambda column: column[~long], trees.sizes)
        at = np.empty(len(long), np.int64)
        at[~long], at[long] = evenly(short.row, count), count + np.arange(long.sum())
        rows = laid(trees, at, count + int(long.sum()))
        sizes = trees.sizes.put(at, len(rows))
        parts = [(0, count), *([(0, len(rows))] if long.any() else [])]
        shapes = tuple(
            shape_of(jax.tree.map(lambda column, end=end: column[:end], sizes), rows.shape[1])
            for _, end in parts
            if end
        )
        return RowPlan(rows, shapes, np.where(np.arange(len(rows)) < count, 0, len(shapes) - 1))

    def _filled(self, groups: TrainingGroups, most: int, size: int) -> tuple[Trees, Bool[np.ndarray, " a"], int]:
        """All groups in trees of at most so many tokens, which of them are longer than a row, and how many rows the
        others fill."""
        trees = grown(groups, np.arange(len(groups)), most)
        long = trees.sizes.row > self.tokens
        return trees, long, fewest(trees.sizes.row[~long], self.tokens, size) if not long.all() else 0

    def together(self, groups: TrainingGroups, batch_size: int, multiple: int) -> "PackedSteps":
        """Batch by batch, in their order."""
        units = self.units(groups)
        size = batch_size // self.groups
        numbers = np.arange(rounded(len(units.rows), size))
        drawn = np.where(numbers < len(units.rows), numbers, -1).reshape(-1, size)
        return PackedSteps(groups, units.rows, list(drawn), self.tokens, multiple, self.shapes)

    def planned(self, sizes: Sizes, units: int, multiple: int) -> Planned:
        """Rows that hold so many evenly."""
        rows = rounded(max(1, -(-units // self._units_a_row(sizes))), multiple)
        return Planned(rows, self._holding(sizes, max(1, -(-units // rows))))

    def full(self, sizes: Sizes) -> RowShape:
        """That of a row of as many units as it has room for."""
        return self._holding(sizes, self._units_a_row(sizes))

    def within(self, groups: TrainingGroups) -> tuple[TrainingGroups, int | None]:
        """Those that are no longer than a row by themselves."""
        tokens = alone(groups)
        long = int((tokens > self.tokens).sum())
        if not long:
            return groups, 0
        said = f"fit.rows: {long} of {len(groups)} groups are longer than a row of {self.tokens} tokens, the longest"
        if self.too_long == "refuse":
            raise DataError(f"{said} {tokens.max()}: raise fit.rows.tokens, or leave them out (fit.rows.too_long drop)")
        if long == len(groups):
            raise DataError(f"{said} {tokens.max()}, and nothing is left: raise fit.rows.tokens")
        return PickedGroups(groups, np.flatnonzero(tokens <= self.tokens)), long

    def _tree(self, sizes: Sizes) -> tuple[int, int]:
        """Tokens of the longest unit, and those that are scored: of those that fit into a row."""
        scored = sizes.different(self.groups) * sizes.response
        return min(sizes.prompt + scored, self.tokens), min(scored, self.tokens)

    def _units_a_row(self, sizes: Sizes) -> int:
        return self.tokens // self._tree(sizes)[0]

    def _holding(self, sizes: Sizes, units: int) -> RowShape:
        tree, scored = self._tree(sizes)
        shape = RowShape.holding(units * tree, units * scored, sizes.response)
        return shape.shared(rounded(units * self.groups, BRANCHES), units * sizes.different(self.groups))


@dataclass(frozen=True)
class PackedSteps:
    """Steps whose rows hold the units that are drawn; see the module's docstring."""

    groups: TrainingGroups
    units: Int[np.ndarray, "n p"]
    drawn: Drawn
    tokens: int
    multiple: int
    most_shapes: int

    @property
    def rows(self) -> int:
        return self._fitted[0]

    @property
    def shape(self) -> RowShape:
        return self._fitted[1][-1]

    def __getitem__(self, step: int) -> Laid:
        count, shapes, least = self._fitted
        trees = self._trees(step)
        rows = laid(trees, evenly(trees.sizes.row, count), count)
        shape = shapes[least[step]]
        return np.pad(rows, ((0, 0), (0, shape.groups - rows.shape[1])), constant_values=-1), shape

    def batches(self, size: int, known: Bool[np.ndarray, " g"] | None = None) -> Iterator[Laid]:
        """Step by step, whatever `size`."""
        for step in range(len(self.drawn)):
            if known is None or not known[self._numbers(step)].all():
                yield self[step]

    def _numbers(self, step: int) -> Int[np.ndarray, " k"]:
        units = self.drawn[step]
        numbers = self.units[units[units >= 0]].reshape(-1)
        return numbers[numbers >= 0]

    def _trees(self, step: int) -> Trees:
        return grown(self.groups, self._numbers(step), self.tokens)

    @cached_property
    def _fitted(self) -> tuple[int, tuple[RowShape, ...], Int[np.ndarray, " k"]]:
        """Rows of a step, their shapes, and the first that holds those of each step."""
        every = [self._trees(step) for step in range(len(self.drawn))]
        count = max(fewest(trees.sizes.row, max(self.tokens, trees.sizes.row.max()), self.multiple) for trees in every)
        fullest, most = [], 1
        for trees in every:
            at = evenly(trees.sizes.row, count)
            fullest.append(jax.tree.map(np.max, trees.sizes.put(at, count)))
            most = max(most, int(np.max(np.bincount(at[trees.tree]))))
        sizes: Measured = jax.tree.map(lambda *columns: np.array(columns), *fullest)
        order = np.argsort(sizes.row, kind="stable")
        shapes, least = shapes_of(
            jax.tree.map(lambda column: column[order], sizes), rounded(most, BRANCHES), self.most_shapes
        )
        found = np.empty_like(least)
        found[order] = least
        return count, shapes, found


def laid(trees: Trees, at: Int[np.ndarray, " a"], count: int) -> Int[np.ndarray, "n p"]:
    """The groups of `count` rows, -1 behind them, where tree number k lies in row `at[k]`: those of a tree together."""
    row = at[trees.tree]
    order = np.lexsort((trees.tree, row))
    row = row[order]
    nth = np.arange(len(row)) - np.searchsorted(row, row)
    rows = np.full((count, rounded(int(nth.max(initial=0)) + 1, BRANCHES)), -1)
    rows[row, nth] = trees.numbers[order]
    return rows


def alone(groups: TrainingGroups) -> Int[np.ndarray, " g"]:
    """Tokens of each group by itself."""
    return groups.prompt_lengths + groups.lengths.sum(1)
