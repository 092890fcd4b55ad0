"""The best answer against any other one: what exploration wants of rejected answers. Dong et al. 2024 (RLHF workflow,
arXiv 2405.07863) call it max-random. Pairs are ranked: another game is solved than the policy's own, and nothing is
certified.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.pairs import Label, RankLabel, labelled, ranking
from jaxalign.types import Groups, Preferences, Rollouts


@dataclass(frozen=True)
class BestRandom:
    """Rank 1 against a text drawn evenly from the prompt's other distinct ones. Rank is that of `pairs.ranking`."""

    label: Label = RankLabel()
    """who is chosen, and how surely"""

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        draw_key, label_key = jax.random.split(key)
        drawn = np.asarray(jax.random.uniform(draw_key, (len(rollouts.texts),)))
        rows = []
        for prompt, (texts, prefer) in enumerate(zip(rollouts.texts, preferences.prefer, strict=True)):
            best, *others = ranking(texts, prefer)
            if others:
                rows.append((prompt, best, others[int(drawn[prompt] * len(others))]))
        table = np.array(rows, np.int64).reshape(-1, 3)
        weight = np.ones(len(table))
        return labelled(rollouts, preferences, table[:, 0], table[:, 1:], weight, self.label, label_key)


EXAMPLE = BestRandom()
