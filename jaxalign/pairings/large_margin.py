"""Pairs whose win rates are far apart: the practical form of DNO. Rosset et al. 2024 (DNO-Prct, arXiv 2404.03715,
section 4).

Where DNO regresses on win rates, its practical form keeps the pairs that these tell apart and trains DPO on them,
against the policy that sampled: DPO(beta) with swap_every = 1. No finite policy minimises that, since the better answer
always has the better win rate; what an iteration does is how long its fit is. The paper ranks a teacher's answers with
the policy's own; here there is no teacher.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.pairings.distinct import distinct
from jaxalign.pairs import RankLabel, labelled, win_rates
from jaxalign.types import Groups, Preferences, Rollouts


@dataclass(frozen=True)
class LargeMargin:
    """Two different texts y, y′ for each P(y ≻ π) − P(y′ ≻ π) of at least `margin`, y chosen for certain. A pair weighs
    as often as it is met among i.i.d. answers of π, up to a factor of the iteration."""

    margin: float = 0.1
    """least difference of the win rates, in (0, 1)"""

    def problems(self) -> Iterable[str]:
        if not 0 < self.margin < 1:
            yield f"margin must lie in (0, 1), got {self.margin}"

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        first, share = distinct(rollouts)
        win = win_rates(rollouts, preferences)
        apart = win[:, :, None] - win[:, None, :] >= self.margin
        prompt, *pair = np.nonzero(apart & first[:, :, None] & first[:, None, :])
        better, worse = pair
        weight = 2 * share[prompt, better] * share[prompt, worse]
        return labelled(rollouts, preferences, prompt, np.stack([better, worse], -1), weight, RankLabel(), key)


EXAMPLE = LargeMargin(margin=0.01)
