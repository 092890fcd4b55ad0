"""The best answer against one that lies so many standard deviations below the mean. Xiao et al. 2025 (arXiv
2502.16825).

With many samples the worst of them is an outlier, from which little is learnt; the paper finds the rating mu − 2 sigma
to be the better place for the rejected answer. mu and sigma are those of all m samples of the prompt. Pairs are no
i.i.d. draws from the policy: another game is solved than its own, and nothing is certified.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.pairings.ratings import By, distinct, rated
from jaxalign.pairs import Label, RankLabel, labelled
from jaxalign.types import Groups, Preferences, Rollouts


@dataclass(frozen=True)
class BelowMean:
    """The best rated text against the other one whose rating is nearest to mu − sigmas · sigma; of two as near, the
    better."""

    sigmas: float = 2.0
    """how far below the mean, in standard deviations"""
    by: By = "score"
    """what rates answers"""
    label: Label = RankLabel()
    """who is chosen, and how surely"""

    def problems(self) -> Iterable[str]:
        if not np.isfinite(self.sigmas):
            yield f"sigmas must be finite, got {self.sigmas}"

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        rows = []
        for prompt, (texts, values) in enumerate(zip(rollouts.texts, rated(preferences, self.by), strict=True)):
            best, *others = distinct(texts, values)
            if others:
                aim = values.mean() - self.sigmas * values.std()
                rows.append((prompt, best, min(others, key=lambda index: abs(values[index] - aim))))
        table = np.array(rows, np.int64).reshape(-1, 3)
        return labelled(rollouts, preferences, table[:, 0], table[:, 1:], np.ones(len(table)), self.label, key)


EXAMPLE = BelowMean(by="win")
"""By win rates it is defined whatever the oracle."""
