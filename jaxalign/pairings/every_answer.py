"""Every answer by itself, as often as the policy gives it: what policy gradients are taken of."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.contracts.group_size import LONE
from jaxalign.pairings.distinct import distinct
from jaxalign.pairs import win_rates
from jaxalign.types import Groups, Labels, Preferences, Rollouts


@dataclass(frozen=True)
class EveryAnswer:
    """Groups of one answer: each different text of a prompt once, with its share of what was said as the weight, so
    that the mean over groups is an expectation under the policy. Exact where answers are enumerated.

    The label, and each annotator's vote, is the win rate. Texts that are alone are groups too: unlike pairs, they have
    gradients.
    """

    responses: ClassVar[int] = LONE

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        del key
        first, share = distinct(rollouts)
        prompt, answer = np.nonzero(first & (share > 0))
        win = win_rates(rollouts, preferences)[prompt, answer]
        each = np.einsum("boij,bj->bio", preferences.by_annotator, rollouts.weights)[prompt, answer]
        score = None
        if preferences.scores is not None:
            mean = np.einsum("o,bom->bm", np.asarray(preferences.weights), preferences.scores)
            score = mean[prompt, answer, None].astype(np.float32)
        return Groups(
            prompt=prompt.astype(np.int32),
            responses=answer[:, None].astype(np.int32),
            weight=share[prompt, answer].astype(np.float32),
            labels=Labels(
                prefer=win.astype(np.float32),
                win=win[:, None].astype(np.float32),
                score=score,
                votes=each.astype(np.float32),
                decided=(each != 0.5).astype(np.float32),
            ),
        )


EXAMPLE = EveryAnswer()
