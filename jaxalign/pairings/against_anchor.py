"""The policy's answers against the anchor's: pairs of exploratory preference optimisation. Xie et al. 2024 (XPO,
arXiv 2405.21046).

Answers y_i of the policy and z_j of its anchor, as `BesideAnchor` gives them, are paired by the law π ⊗ anchor: every
(y_i, z_j) once with weight w_i w_j, each of its own law, or so many drawn. A group is the pair, oriented by its label,
and the anchor's answer again, for losses that ask who said what. A pair of one text is kept, unlike by rules of the
policy alone: it says nothing of preferences, and what a loss makes of the anchor's answer is to be a mean over all.

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
class AgainstAnchor:
    """Groups of the chosen answer, the rejected one, and the one of them that is the anchor's."""

    label: Label = SoftLabel()
    """who is chosen, and how surely"""
    pairs_per_prompt: int | None = None
    """drawn independently of one another, >= 1; None: every pair once"""

    third: ClassVar[Third] = "anchor"
    responses: ClassVar[int] = 3

    def problems(self) -> Iterable[str]:
        yield from unranked_problems(self.label)
        if self.pairs_per_prompt is not None and self.pairs_per_prompt < 1:
            yield f"pairs_per_prompt must be at least 1 or None, got {self.pairs_per_prompt}"

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        answers = rollouts.weights.shape[1]
        half, odd = divmod(answers, 2)
        if odd:
            raise BrokenContract(f"takes the policy's answers and as many of the anchor's, got {answers} together")
        draw_key, label_key = jax.random.split(key)
        weights = rollouts.weights.astype(np.float64)
        joint = 4 * weights[:, :half, None] * weights[:, None, half:]
        if self.pairs_per_prompt is None:
            prompt, mine, behind = np.nonzero(joint > 0)
            weight = joint[prompt, mine, behind]
        else:
            prompt, mine, behind = drawn_pairs(joint, self.pairs_per_prompt, draw_key)
            weight = joint.sum((1, 2))[prompt] / self.pairs_per_prompt
        theirs = behind + half
        chosen, prefer = self.label(preferences.prefer[prompt, mine, theirs], label_key)
        pair = np.where(chosen[:, None], np.stack([mine, theirs], -1), np.stack([theirs, mine], -1))
        responses = np.concatenate([pair, theirs[:, None]], 1)
        return Groups(
            prompt=prompt.astype(np.int32),
            responses=responses.astype(np.int32),
            weight=weight.astype(np.float32),
            labels=labels_of(rollouts, preferences, prompt, responses, prefer),
        )


EXAMPLE = AgainstAnchor()
