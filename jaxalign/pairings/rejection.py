"""Pairs of the policy that is best for the ratings, by rejection from samples of another one. Liu et al. 2023 (RSO,
arXiv 2309.06657), algorithm 1.

An answer y of the policy π that sampled is accepted with probability exp((S(y) − max S)/beta), which makes it a draw
from π exp(S/beta)/Z, the optimum of E S − beta KL(· ‖ π), as far as the maximum is that of all answers. They are gone
through in order, the rejected ones again with the maximum of those that are left, until enough are accepted; each text
is taken once at most. Neighbours among the accepted are a pair, labelled by the oracle. With a large beta they are
draws from the policy itself, with a small one its best answers.

Pairs are draws from π exp(S/beta)/Z and not from π: a fit on them is no mirror step, and nothing is certified.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxalign.pairings.ratings import By, distinct, rated
from jaxalign.pairs import BernoulliLabel, Label, labelled, unranked_problems
from jaxalign.types import Groups, Preferences, Rollouts


@dataclass(frozen=True)
class Rejection:
    """Of each prompt `pairs` pairs of accepted answers, fewer where it has fewer different texts."""

    beta: float = 0.5
    """temperature of the ratings, in their unit, > 0"""
    pairs: int = 4
    """of a prompt, >= 1: twice as many answers are accepted"""
    by: By = "score"
    """what rates answers"""
    label: Label = BernoulliLabel()
    """who is chosen, and how surely"""

    def problems(self) -> Iterable[str]:
        yield from unranked_problems(self.label)
        if not self.beta > 0:
            yield f"beta must be positive, got {self.beta}"
        if self.pairs < 1:
            yield f"pairs must be at least 1, got {self.pairs}"

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        draw_key, label_key = jax.random.split(key)
        samples = rollouts.weights.shape[1]
        # Every pass accepts its best answer at least, so there are no more passes than answers.
        drawn = np.asarray(jax.random.uniform(draw_key, (len(rollouts.texts), samples, samples)))
        rows = []
        for prompt, (texts, values) in enumerate(zip(rollouts.texts, rated(preferences, self.by), strict=True)):
            there = sorted(distinct(texts, values))
            wanted = min(2 * self.pairs, len(there) - len(there) % 2)
            found = [there[place] for place in accepted(values[there], self.beta, wanted, drawn[prompt])]
            rows += [(prompt, *found[place : place + 2]) for place in range(0, wanted, 2)]
        table = np.array(rows, np.int64).reshape(-1, 3)
        return labelled(rollouts, preferences, table[:, 0], table[:, 1:], np.ones(len(table)), self.label, label_key)


def accepted(
    ratings: Float[np.ndarray, " n"], beta: float, count: int, drawn: Float[np.ndarray, "passes m"]
) -> list[int]:
    """Places of `count` <= n answers in the order in which they are accepted; `drawn` are uniform numbers, a row for
    each pass."""
    left = list(range(len(ratings)))
    found: list[int] = []
    for row in drawn:
        most = max((ratings[place] for place in left), default=0.0)
        kept = [place for place in left if row[place] < np.exp((ratings[place] - most) / beta)]
        found += kept[: count - len(found)]
        left = [place for place in left if place not in kept]
        if len(found) == count:
            break
    return found


EXAMPLE = Rejection(beta=0.1, pairs=2, by="win")
"""By win rates it is defined whatever the oracle."""
