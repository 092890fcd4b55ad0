"""Pairs of answers that are rated nearly alike: those from which most is left to learn. Qi et al. 2025 (arXiv
2508.04149).

The paper keeps the recorded pairs whose implicit rewards, of a policy that DPO has trained, are least apart: the policy
does not tell them apart yet. Here they are chosen among the answers to a prompt, by whatever scores them:
`oracles.log_prob.DensityRatio` of that policy over the one that it began with is the implicit reward. Of recorded pairs
`data.comparisons.by_gap` keeps a share. Pairs are no i.i.d. draws from the policy: nothing is certified.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.pairings.ratings import By, distinct, rated
from jaxalign.pairs import BernoulliLabel, Label, labelled
from jaxalign.types import Groups, Preferences, Rollouts


@dataclass(frozen=True)
class CloseRatings:
    """Of each prompt the `pairs` pairs of different texts whose ratings are least apart, equal ones left out; all that
    there are where they are fewer. The better rated answer is the first of a pair."""

    pairs: int = 1
    """of a prompt, >= 1"""
    by: By = "score"
    """what rates answers"""
    label: Label = BernoulliLabel()
    """who is chosen, and how surely"""

    def problems(self) -> Iterable[str]:
        if self.pairs < 1:
            yield f"pairs must be at least 1, got {self.pairs}"

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        rows = []
        for prompt, (texts, values) in enumerate(zip(rollouts.texts, rated(preferences, self.by), strict=True)):
            order = distinct(texts, values)
            apart = [
                (values[better] - values[worse], better, worse)
                for place, better in enumerate(order)
                for worse in order[place + 1 :]
                if values[better] > values[worse]
            ]
            rows += [(prompt, better, worse) for _, better, worse in sorted(apart)[: self.pairs]]
        table = np.array(rows, np.int64).reshape(-1, 3)
        return labelled(rollouts, preferences, table[:, 0], table[:, 1:], np.ones(len(table)), self.label, key)


EXAMPLE = CloseRatings(pairs=2, by="win")
"""By win rates it is defined whatever the oracle."""
