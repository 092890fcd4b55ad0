"""How groups are laid into rows: the contract of `Fit.rows`, and what a fit and a scorer are given.

    OnePrompt   a row has groups of one prompt, and there are as many rows as a step has such
    Packed      a row has as many prompts as its tokens hold, and a step as many rows as its groups need

What a step trains on is the same: groups are drawn by `units`, whatever rows they come into, and a loss sees of each
what it would see of it alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from jaxalign.data.groups import TrainingGroups
from jaxalign.training.row_plan import RowPlan
from jaxalign.training.rows import RowShape, Sizes

Laid = tuple[Int[np.ndarray, "n p"], RowShape]
"""Numbers of the groups of n rows (-1: none), and a shape that holds them."""


@runtime_checkable
class Drawn(Protocol):
    """Numbers of the units of each step (-1: none)."""

    def __len__(self) -> int: ...
    def __getitem__(self, step: int, /) -> Int[np.ndarray, " m"]: ...


@runtime_checkable
class Steps(Protocol):
    """The rows of each step of a fit."""

    @property
    def rows(self) -> int:
        """Of each step, over all devices and microbatches."""
        ...

    @property
    def shape(self) -> RowShape:
        """The one that holds those of any step."""
        ...

    def __getitem__(self, step: int) -> Laid: ...


@runtime_checkable
class Passes(Protocol):
    """The rows of groups that are gone through once."""

    @property
    def shape(self) -> RowShape: ...

    def batches(self, size: int, known: Bool[np.ndarray, " g"] | None = None) -> Iterator[Laid]:
        """About `size` rows at a time, without those batches whose groups are all `known` (None: all batches)."""
        ...


@dataclass(frozen=True)
class Planned:
    """Rows, and the shape of each, before there are groups."""

    rows: int
    shape: RowShape


@runtime_checkable
class RowRule(Protocol):
    """A frozen dataclass: how groups come into rows. `multiple` is what rows must be a multiple of: the shards that
    they are split over times the microbatches of a step."""

    @property
    def groups(self) -> int:
        """Groups of one prompt that are drawn together: a unit, at most."""
        ...

    def rows_a_step(self, batch_size: int) -> int | None:
        """Rows that a step of so many groups has, whatever these are; None where only they can tell."""
        ...

    def units(self, groups: TrainingGroups) -> RowPlan:
        """The units of all groups, each as a row of its own."""
        ...

    def steps(self, groups: TrainingGroups, units: RowPlan, drawn: Drawn, multiple: int) -> Steps:
        """The rows of the steps of a fit of groups that are `within` them."""
        ...

    def passes(self, groups: TrainingGroups, size: int) -> RowPlan:
        """Rows of all groups that are seen one by one, `size` at a time. A group that is longer than a row has a longer
        one."""
        ...

    def together(self, groups: TrainingGroups, batch_size: int, multiple: int) -> Passes:
        """Rows of all groups for a loss that sees so many of them together, as in a step."""
        ...

    def planned(self, sizes: Sizes, units: int, multiple: int) -> Planned:
        """What so many units come to where all are as long as they may be."""
        ...

    def full(self, sizes: Sizes) -> RowShape:
        """The shape of a row that is as full as it may be."""
        ...

    def within(self, groups: TrainingGroups) -> tuple[TrainingGroups, int | None]:
        """Those of the groups that a fit has rows for, and how many others there are; None where there can be none.
        DataError where others are refused, or nothing is left."""
        ...
