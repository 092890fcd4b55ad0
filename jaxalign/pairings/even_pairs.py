"""Pairs of all different answers, however likely each is: the behaviour of EGPO. Zhou et al. 2025 (arXiv 2503.08942).

There the two answers of a regression are drawn evenly from all that can be said, and only the opponent, whom win rates
are of, is the policy. On a table one step of gradient descent on such pairs is then one of mirror descent:

    log π′ = log π − lr · c ( log π − log anchor − P(· ≻ opponent) / beta ) + constant

whereas pairs of the policy multiply this by the probability of each answer, and rare ones hardly move. For a language
model the paper draws at a high temperature; here the answers are those that were sampled, each text once.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.pairings.distinct import distinct
from jaxalign.pairs import Label, SoftLabel, labelled, unranked_problems
from jaxalign.types import Groups, Preferences, Rollouts


@dataclass(frozen=True)
class EvenPairs:
    """Every two different texts of a prompt once, all with the same weight; the weights of a prompt sum to 1."""

    label: Label = SoftLabel()
    """who is chosen, and how surely; `WinRateRegression` reads none"""

    def problems(self) -> Iterable[str]:
        yield from unranked_problems(self.label)

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        first, _ = distinct(rollouts)
        one, other = np.triu_indices(first.shape[1], 1)
        prompt, number = np.nonzero(first[:, one] & first[:, other])
        count = np.bincount(prompt, minlength=len(first))
        pairs = np.stack([one[number], other[number]], -1)
        return labelled(rollouts, preferences, prompt, pairs, 1 / count[prompt], self.label, key)


EXAMPLE = EvenPairs()
