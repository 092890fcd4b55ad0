"""The best answer among the worst ones: sets for losses of several rejected answers. Gupta et al. 2025 (AMPO, arXiv
2502.18293), its bottom-k selection.

Of the m answers to a prompt the best rated one stands first and the k = `responses` − 1 worst rated ones follow, the
worst at once. The paper's other selections are in `covering`. Groups are no i.i.d. draws from the policy: nothing is
certified.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.pairings.lists import lists
from jaxalign.pairings.ratings import By, distinct, rated
from jaxalign.types import Groups, Preferences, Rollouts


@dataclass(frozen=True)
class BestBottom:
    """One group for each prompt that has as many different texts."""

    responses: int = 4
    """answers of a group, >= 2: the best, and k worst ones"""
    by: By = "score"
    """what rates answers"""

    def problems(self) -> Iterable[str]:
        if self.responses < 2:
            yield f"responses must be at least 2, got {self.responses}"

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        values = rated(preferences, self.by)
        orders = [distinct(texts, each) for texts, each in zip(rollouts.texts, values, strict=True)]
        prompt = np.array([number for number, order in enumerate(orders) if len(order) >= self.responses], np.int64)
        picked = [[orders[number][0], *orders[number][: -self.responses : -1]] for number in prompt]
        responses = np.array(picked, np.int64).reshape(-1, self.responses)
        return lists(rollouts, preferences, prompt, responses)


EXAMPLE = BestBottom(responses=3, by="win")
"""By win rates it is defined whatever the oracle."""
