"""Pairs of the anchor's answers, and one of the policy's beside each: what hybrid methods train on. Song et al. 2024
(HyPO, arXiv 2406.01462), Xu et al. 2025 (DRPO, arXiv 2506.01183).

Both take preferences that were collected from a reference, and the policy's own answers without any label. With an
anchor that is never swapped the pairs are draws from the initial policy, made anew each iteration. Of answers z_i of
the anchor and y_k of the policy, as `BesideAnchor` gives them, every two z and every y are a group of weight
2 w_i w_j w_k, each weight of its own law, or so many are drawn. The pair stands first, oriented by its label, and the
policy's answer third. A pair of one text is kept: it says nothing of preferences, and what a loss makes of the policy's
answer is to be a mean over all.

No pair is of the policy's own law: a fit is no mirror step, and nothing is certified. `Labels.win` is against both.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.contracts.pairing import Third
from jaxalign.errors import BrokenContract
from jaxalign.pairs import Label, SoftLabel, drawn_pairs, labels_of, unranked_problems
from jaxalign.types import Groups, Preferences, Rollouts


@dataclass(frozen=True)
class AnchorPairs:
    """Groups of the chosen and the rejected answer of the anchor, and one of the policy."""

    label: Label = SoftLabel()
    """who is chosen, and how surely"""
    groups_per_prompt: int | None = None
    """drawn independently of one another, >= 1; None: each once"""

    third: ClassVar[Third] = "policy"
    responses: ClassVar[int] = 3

    def problems(self) -> Iterable[str]:
        yield from unranked_problems(self.label)
        if self.groups_per_prompt is not None and self.groups_per_prompt < 1:
            yield f"groups_per_prompt must be at least 1 or None, got {self.groups_per_prompt}"

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        answers = rollouts.weights.shape[1]
        half, odd = divmod(answers, 2)
        if odd or half < 2:
            raise BrokenContract(
                f"takes two answers and more of the policy and as many of the anchor's, got {answers} together"
            )
        draw_key, label_key = jax.random.split(key)
        one, other = np.triu_indices(half, 1)
        weights = 2 * rollouts.weights.astype(np.float64)
        pairs = 2 * weights[:, half + one] * weights[:, half + other]
        joint = pairs[:, :, None] * weights[:, None, :half]
        if self.groups_per_prompt is None:
            prompt, pair, mine = np.nonzero(joint > 0)
            weight = joint[prompt, pair, mine]
        else:
            prompt, pair, mine = drawn_pairs(joint, self.groups_per_prompt, draw_key)
            weight = joint.sum((1, 2))[prompt] / self.groups_per_prompt
        first, second = half + one[pair], half + other[pair]
        chosen, prefer = self.label(preferences.prefer[prompt, first, second], label_key)
        theirs = np.where(chosen[:, None], np.stack([first, second], -1), np.stack([second, first], -1))
        responses = np.concatenate([theirs, mine[:, None]], 1)
        return Groups(
            prompt=prompt.astype(np.int32),
            responses=responses.astype(np.int32),
            weight=weight.astype(np.float32),
            labels=labels_of(rollouts, preferences, prompt, responses, prefer),
        )


EXAMPLE = AnchorPairs()
