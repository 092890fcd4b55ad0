"""Groups of several answers to a prompt, those of each prompt once."""

import numpy as np
from jaxtyping import Int

from jaxalign.pairs import labels_of
from jaxalign.types import Groups, Preferences, Rollouts


def lists(
    rollouts: Rollouts, preferences: Preferences, prompt: Int[np.ndarray, " g"], responses: Int[np.ndarray, "g r"]
) -> Groups:
    """A group of weight 1 of each list of answers; its label is the oracle's of the first two."""
    prefer = preferences.prefer[prompt, responses[:, 0], responses[:, 1]]
    return Groups(
        prompt=prompt.astype(np.int32),
        responses=responses.astype(np.int32),
        weight=np.ones(len(prompt), np.float32),
        labels=labels_of(rollouts, preferences, prompt, responses, prefer),
    )
