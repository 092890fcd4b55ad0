"""A row for each prompt: one group of its, or several."""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxalign.data.groups import TrainingGroups
from jaxalign.training.row_plan import RowPlan, plan_rows
from jaxalign.training.row_rule import Drawn, Laid, Planned
from jaxalign.training.rows import RowShape, Sizes


@dataclass(frozen=True)
class OnePrompt:
    """Rows of the groups of one prompt: it is computed once, and an answer that is in several of them too. A step has
    batch_size / groups rows, and fewer groups where a prompt has fewer than fill its row."""

    groups: int = 1
    """groups of one prompt that share a row, at most"""
    shapes: int = 1
    """shapes that rows are padded to, at most; each is compiled, and a batch of short rows takes a narrow one"""

    def problems(self) -> Iterable[str]:
        for name, value in (("groups", self.groups), ("shapes", self.shapes)):
            if value < 1:
                yield f"{name} must be at least 1, got {value}"

    def rows_a_step(self, batch_size: int) -> int:
        """One for each unit."""
        return batch_size // self.groups

    def units(self, groups: TrainingGroups) -> RowPlan:
        """The rows, by length where there are several shapes."""
        return plan_rows(groups, self.groups, self.shapes)

    def steps(self, groups: TrainingGroups, units: RowPlan, drawn: Drawn, multiple: int) -> "UnitsInTurn":
        """The units as they are drawn."""
        return UnitsInTurn(units, drawn)

    def passes(self, groups: TrainingGroups, size: int) -> RowPlan:
        """The units."""
        return self.units(groups)

    def together(self, groups: TrainingGroups, batch_size: int, multiple: int) -> RowPlan:
        """The units: so many rows are those of so many groups."""
        return self.units(groups)

    def planned(self, sizes: Sizes, units: int, multiple: int) -> Planned:
        """A row for each."""
        return Planned(units, self.full(sizes))

    def full(self, sizes: Sizes) -> RowShape:
        """That of any row."""
        return sizes.shared(self.groups)

    def within(self, groups: TrainingGroups) -> tuple[TrainingGroups, None]:
        """All: rows are as long as the longest."""
        return groups, None


@dataclass(frozen=True)
class UnitsInTurn:
    """Steps whose rows are the units that are drawn."""

    units: RowPlan
    drawn: Drawn

    @property
    def rows(self) -> int:
        return len(self.drawn[0])

    @property
    def shape(self) -> RowShape:
        return self.units.shape

    def __getitem__(self, step: int) -> Laid:
        return self.units.batch(self.drawn[step])
