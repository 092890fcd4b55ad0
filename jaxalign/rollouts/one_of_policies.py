"""Answers of a mixture of policies: for each prompt one of them is drawn, and all answers to it are that one's.

What no-regret self-play guarantees is guaranteed of this mixture (Cai & Zheng 2026, arXiv 2601.08777, for games of
k + 1 players): draw an iterate t, then all k answers from π_t. Answers that are each of another iterate are of another
law, which has no such guarantee.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from jaxalign.rollouts.contract import Roller
from jaxalign.rollouts.seam import checked, refuse_gaps
from jaxalign.rollouts.shares import in_order
from jaxalign.types import Params, Prompt, Rollouts


def drawn(policies: Sequence[int], count: int, key: PRNGKeyArray) -> Int[np.ndarray, " b"]:
    """One of the policies' numbers for each of `count` prompts, each as likely as the others."""
    return np.asarray(policies)[np.asarray(jax.random.randint(key, (count,), 0, len(policies)))]


def rolled_from(
    roller: Roller,
    params: Callable[[int], Params],
    policies: Int[np.ndarray, " b"],
    prompts: Sequence[Prompt],
    key: PRNGKeyArray,
) -> Rollouts:
    """Answers to each prompt by the policy of its number, one policy at a time; for one process alone. Whoever speaks,
    a prompt's key is the same: what policy t says is what it would say if it answered all."""
    shares = [
        share
        for number in np.unique(policies).tolist()
        for share in checked(roller, params(number), prompts, np.flatnonzero(policies == number), key)
    ]
    refuse_gaps(roller, shares, len(prompts))
    return in_order(shares)
