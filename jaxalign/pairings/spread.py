"""Groups of K answers from the best to the worst: what losses of lists are trained on."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.pairings.lists import lists
from jaxalign.pairs import ranking
from jaxalign.types import Groups, Preferences, Rollouts


@dataclass(frozen=True)
class Spread:
    """One group a prompt: its best answer, its worst, and others evenly between them by rank.

    Rank is the mean win probability against the prompt's other distinct texts (see `pairs.ranking`). The best stands
    first and the worst second, so that what looks at pairs sees these two. Prompts with fewer distinct texts than
    `responses` give no group.
    """

    responses: int = 4
    """K, answers of a group, >= 2"""

    def problems(self) -> Iterable[str]:
        if self.responses < 2:
            yield f"responses must be at least 2, got {self.responses}"

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        orders = (ranking(texts, prefer) for texts, prefer in zip(rollouts.texts, preferences.prefer, strict=True))
        found = [(prompt, self._chosen(order)) for prompt, order in enumerate(orders) if len(order) >= self.responses]
        prompt = np.array([number for number, _ in found], np.int64)
        responses = np.array([each for _, each in found], np.int64).reshape(-1, self.responses)
        return lists(rollouts, preferences, prompt, responses)

    def _chosen(self, order: list[int]) -> list[int]:
        best, *between, worst = (
            order[place] for place in np.linspace(0, len(order) - 1, self.responses).round().astype(int)
        )
        return [best, worst, *between]


EXAMPLE = Spread(responses=3)
