"""Sources of preference data: one class a shape, in which a config says where what stands."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.tables.strict import Tally


@runtime_checkable
class Comparisons(Protocol):
    """Where comparisons come from: a frozen dataclass, one class a shape."""

    @property
    def responses(self) -> int:
        """Answers of each comparison: two, or one alone."""
        ...

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """All comparisons in the file's order, few of them in memory, the preferred answer of each pair in front.

        Bad rows end in one DataError after the last row, so that comparisons may be kept only when the iterator came to
        its end; those skipped are counted in `tally`. The same source gives the same comparisons every time.
        """
        ...
