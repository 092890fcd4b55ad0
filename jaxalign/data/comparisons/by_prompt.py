"""A share of the prompts, with all comparisons of each: to train on some prompts and to be tested on others."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxalign.data.comparisons import pairs
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.tables.strict import Tally
from jaxalign.types import Prompt


@dataclass(frozen=True)
class ByPrompt:
    """Comparisons whose prompt falls into a range of [0, 1), where each prompt has a place by what it says.

    Two ranges that do not overlap share no prompt, in whatever file or order the comparisons stand.
    """

    source: Comparisons
    """where the comparisons come from"""
    begin: float
    """begin of the range"""
    end: float
    """end of the range; a prompt there is no longer in it"""
    seed: int = 0
    """places prompts anew"""

    def problems(self) -> Iterable[str]:
        if not 0 <= self.begin < self.end <= 1:
            yield f"begin and end must be a range in [0, 1], got {self.begin} and {self.end}"

    @property
    def responses(self) -> int:
        """Those of the source."""
        return self.source.responses

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The comparisons in the range; rows and skipped ones are counted over all."""
        return (each for each in self.source.read(tally) if self.begin <= self._place(each.prompt) < self.end)

    def _place(self, prompt: Prompt) -> float:
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{said(prompt)}".encode()).digest()[:6]) / 2**48


def said(prompt: Prompt) -> str:
    """All that a prompt says, whatever it is called."""
    return json.dumps([[(message["role"], message["content"]) for message in prompt.messages], prompt.tools])


EXAMPLE = ByPrompt(pairs.EXAMPLE, 0.0, 1.0)
