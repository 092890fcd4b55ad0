"""Easy pairs first: the best answer against ever better ones, iteration by iteration. Pattnaik et al. 2024 (Curry-DPO,
arXiv 2403.07230).

With K answers the paper's pairs of a prompt, in the order of falling gaps, are (1, K), (1, K − 1), … (1, 2) by rank:
one pass over each kind, the reference of a pass being the policy that the last one made (`swap_every=1`). Here a pass
is an iteration, so the answers are new ones each time. With more ranks than stages the ranks are evenly chosen, the
last stage is always the best against the second, and goes on. Pairs are ranked: nothing is certified.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.pairs import Label, RankLabel, labelled, ranking
from jaxalign.types import Groups, Preferences, Rollouts


@dataclass(frozen=True)
class Curriculum:
    """Rank 1 against the worst rank in iteration 0, against rank 2 from the last stage on. Rank is that of
    `pairs.ranking`."""

    stages: int = 3
    """iterations until the hardest pairs, >= 2"""
    first: int = 0
    """stage of iteration 0"""
    label: Label = RankLabel()
    """who is chosen, and how surely"""

    def problems(self) -> Iterable[str]:
        if self.stages < 2:
            yield f"stages must be at least 2, got {self.stages}"
        if not 0 <= self.first < max(self.stages, 1):
            yield f"first must be one of the stages, from 0 on, got {self.first}"

    def at(self, iteration: int) -> "Curriculum":
        """The rule of an iteration: one that begins where it is."""
        return replace(self, first=min(self.first + iteration, self.stages - 1))

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        rows = []
        for prompt, (texts, prefer) in enumerate(zip(rollouts.texts, preferences.prefer, strict=True)):
            order = ranking(texts, prefer)
            if len(order) > 1:
                place = np.linspace(len(order) - 1, 1, self.stages).round().astype(int)[self.first]
                rows.append((prompt, order[0], order[place]))
        table = np.array(rows, np.int64).reshape(-1, 3)
        return labelled(rollouts, preferences, table[:, 0], table[:, 1:], np.ones(len(table)), self.label, key)


EXAMPLE = Curriculum()
