"""Answers of a mixture of policies: for each prompt one of them is drawn, and all answers to it are that one's.

This is the output rule of self-play without regret (Cai & Zheng 2026, arXiv 2601.08777, for games of k + 1 players):
draw t from 1 to T, then all k answers from π_t, where π_1 is the start and π_{t+1} is made of what π_t gained. After T
steps π_{T+1} has not been played and is not among them. Answers that are each of another iterate are of another law.

What is guaranteed is guaranteed of multiplicative weights on the exact gains u_k. Policies that are fitted to samples,
as with INPO's loss, and whose anchor is swapped make other steps: nothing is known of their mixture but what is
measured.
"""

import zlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from jaxalign.rollouts.contract import Roller
from jaxalign.rollouts.keys import Keys, folded
from jaxalign.rollouts.seam import checked, refuse_gaps
from jaxalign.rollouts.shares import in_order
from jaxalign.types import Params, Prompt, Rollouts

MIXTURE = "mixture"
"""How verbs call the mixture of a run's policies."""


def mixed(there: Sequence[int]) -> list[int]:
    """Which policies a run's mixture draws from: of the numbers of those that there are, all but the last, the base
    included; none where there is but one."""
    return sorted(there)[:-1]


def drawn(policies: Sequence[int], keys: Key[Array, " b"]) -> Int[np.ndarray, " b"]:
    """One of the policies' numbers for each prompt, each as likely as the others: by the prompts' own keys, so that
    whom a prompt is answered by does not depend on what else is asked."""
    apart = folded(keys, zlib.crc32(b"one of policies") >> 1)  # no sample has this number
    place = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(policies)))(apart)
    return np.asarray(policies)[np.asarray(place)]


def rolled_from(
    roller: Roller,
    params: Callable[[int], Params],
    policies: Int[np.ndarray, " b"],
    prompts: Sequence[Prompt],
    keys: Keys,
) -> Rollouts:
    """Answers to each prompt by the policy of its number, one policy at a time; for one process alone. Whoever speaks,
    a prompt's key is the same: what policy t says is what it would say if it answered all."""
    shares = [
        share
        for number in np.unique(policies).tolist()
        for share in checked(roller, params(number), prompts, np.flatnonzero(policies == number), keys)
    ]
    refuse_gaps(roller, shares, len(prompts))
    return in_order(shares)
