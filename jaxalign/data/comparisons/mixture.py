"""Several sources as one, each with its share of what is trained on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from jaxalign.data.comparisons import pairs, transcripts
from jaxalign.data.comparisons.alone import Alone
from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.derived import Derived
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.scored import Scored
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.tables.strict import Tally


@dataclass(frozen=True)
class Mixture:
    """Sources with the shares in which training sees them.

    An epoch sees every comparison of the source that is largest for its share once, and those of the others again and
    again until their shares are full. Without `shares` every comparison is seen once, as of one file.
    """

    sources: tuple[Comparisons, ...]
    """where the comparisons come from"""
    shares: tuple[float, ...] = ()
    """of each source; they need not sum to 1; empty: each has as much as it holds"""

    def problems(self) -> Iterable[str]:
        if not self.sources:
            yield "sources is empty"
        if self.shares and len(self.shares) != len(self.sources):
            yield f"shares are {len(self.shares)} of {len(self.sources)} sources"
        if any(len(parts(source)) > 1 for source in self.sources):
            yield "a mixture in a mixture; name all sources in one"
        if not all(0 < share < float("inf") for share in self.shares):
            yield f"shares must be positive, got {', '.join(map(str, self.shares))}"
        if len({source.responses for source in self.sources}) > 1:
            yield "pairs and lone answers do not mix; `Alone` takes pairs apart"

    @property
    def responses(self) -> int:
        """Those of every source."""
        return self.sources[0].responses

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The comparisons of one source after another, each once."""
        for source in self.sources:
            yield from source.read(tally)


def parts(source: Comparisons) -> list[tuple[float | None, Comparisons]]:
    """What a source consists of, with the share of each: None as much as it holds."""
    if isinstance(source, ByPrompt | Alone | Derived | Scored):
        return [(share, replace(source, source=part)) for share, part in parts(source.source)]
    if isinstance(source, Mixture):
        return list(zip(source.shares or [None] * len(source.sources), source.sources, strict=True))
    return [(None, source)]


EXAMPLE = Mixture((pairs.EXAMPLE, transcripts.EXAMPLE), (3.0, 1.0))
