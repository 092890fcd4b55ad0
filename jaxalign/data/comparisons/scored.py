"""Pairs scored by what can be computed of their answers: what losses read that keep other objectives by their rewards
(`MODPO`), or ask more where answers differ more (`OffsetDPO`)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from jaxalign.data.comparisons import pairs
from jaxalign.data.comparisons.derived import Quality, scores_of
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.tables.strict import Tally
from jaxalign.errors import DataError
from jaxalign.types import Prompt


@dataclass(frozen=True)
class Scored:
    """The comparisons of a source, whose answers have the scores that `quality` gives, in place of any that they had.

    Labels and votes stay the source's.
    """

    source: Comparisons
    """where the comparisons come from"""
    quality: Quality
    """who scores: an annotator of a panel, or a function of prompt and texts"""
    scale: float = 1.0
    """factor of the scores: nats of reward a unit"""

    @property
    def responses(self) -> int:
        """Those of the source."""
        return self.source.responses

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The comparisons. DataError, naming the row, for a quality that scores a text NaN or does not score it."""
        for each in self.source.read(tally):
            try:
                found = scores_of(self.quality, each.prompt, each.answers)
            except DataError as error:
                raise DataError(f"{each.place}: {error}") from error
            yield replace(each, scores=tuple(self.scale * score for score in found))


@dataclass(frozen=True)
class FewWords:
    """Minus the number of words, which blanks part: a reward of brevity."""

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, " m"]:
        return np.array([-len(text.split()) for text in texts], np.float64)


EXAMPLES = (FewWords(), Scored(pairs.EXAMPLE, FewWords(), scale=0.1))
