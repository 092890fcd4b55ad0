"""Answers of several policies to the same prompts, laid side by side for an oracle to compare."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import PRNGKeyArray

from jaxalign.config.settings import short
from jaxalign.errors import DataError
from jaxalign.rollouts.shares import joined
from jaxalign.types import Oracle, Preferences, Prompt, Rollouts


def joint_preferences(oracle: Oracle, policies: Sequence[Rollouts], key: PRNGKeyArray) -> Preferences:
    """The oracle's preferences among the answers of all policies, policy after policy along m."""
    return oracle(side_by_side(policies), key)


def side_by_side(policies: Sequence[Rollouts]) -> Rollouts:
    """One set of rollouts with every policy's answers along m, tokens padded to the longest; weights 1 in all.

    Raises DataError naming the first prompt that is not the same for all of them, in id, messages and tools.
    """
    for other in policies[1:]:
        refuse_other_prompts(policies[0].prompts, other.prompts)
    together = joined(policies, "m")
    return replace(together, weights=together.weights / len(policies))


def refuse_other_prompts(one: Sequence[Prompt], other: Sequence[Prompt]) -> None:
    """Raises DataError naming the first prompt that differs: a preference between answers to two questions says
    nothing."""
    for index, (mine, theirs) in enumerate(itertools.zip_longest(one, other)):
        if mine != theirs:
            raise DataError(
                f"answers to different prompts cannot be compared: prompt {index} is {told(mine)} to one policy and "
                f"{told(theirs)} to another"
            )


def told(prompt: Prompt | None) -> str:
    """Id and last message of a prompt, or that there is none."""
    return "absent" if prompt is None else f"{short(prompt.id)} {short(prompt.text)!r}"
