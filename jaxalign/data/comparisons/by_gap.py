"""A share of the pairs by how far apart their answers are scored: the close ones, the clear ones, or a stage between.

Close ones are what a policy still has to learn where scores are its own implicit rewards (Qi et al. 2025, arXiv
2508.04149); clear ones first and closer ones later are a curriculum (Pattnaik et al. 2024, Curry-DPO, arXiv
2403.07230): a run for each range, the anchor of the next being the policy of the last (`references.guide`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from jaxalign.data.comparisons import pairs
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.scored import FewWords, Scored
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.tables.strict import Tally
from jaxalign.errors import DataError


@dataclass(frozen=True)
class ByGap:
    """Pairs whose |S(0) − S(1)| has a rank among all of the source's in a range of [0, 1], from the smallest on; equal
    ones in the file's order. The source is read twice."""

    source: Comparisons
    """where the pairs come from; all of them are scored (`Scored`, or the file's own scores)"""
    begin: float = 0.0
    """begin of the range: 0 takes the closest pairs"""
    end: float = 0.5
    """end of the range: 1 takes the clearest ones"""

    def problems(self) -> Iterable[str]:
        if not 0 <= self.begin < self.end <= 1:
            yield f"begin and end must be a range in [0, 1], got {self.begin} and {self.end}"
        if self.source.responses != 2:
            yield "source has lone answers, and a gap is one between two"

    @property
    def responses(self) -> int:
        """Those of the source."""
        return self.source.responses

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The pairs in the range; rows and skipped ones are counted over all. DataError, naming the row, for a pair
        without scores."""
        apart = [gap(each) for each in self.source.read(Tally())]
        rank = np.argsort(np.argsort(np.array(apart, np.float64), kind="stable"))
        low, high = (round(share * len(apart)) for share in (self.begin, self.end))
        numbered = enumerate(self.source.read(tally))
        return (each for number, each in numbered if low <= rank[number] < high)


def gap(comparison: Comparison) -> float:
    """|S(0) − S(1)|. DataError where there are no scores."""
    if comparison.scores is None:
        raise DataError(f"{comparison.place}: the answers have no scores, and pairs are chosen by what they are apart")
    return abs(comparison.scores[0] - comparison.scores[1])


EXAMPLE = ByGap(Scored(pairs.EXAMPLE, FewWords()), 0.0, 1.0)
