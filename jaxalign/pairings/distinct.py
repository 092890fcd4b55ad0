"""The different texts among the answers to a prompt, and how much of all that was said each is."""

import numpy as np
from jaxtyping import Bool, Float

from jaxalign.pairs import duplicates
from jaxalign.types import Rollouts


def distinct(rollouts: Rollouts) -> tuple[Bool[np.ndarray, "b m"], Float[np.ndarray, "b m"]]:
    """Whether an answer is the first of its text, and the weight of all answers of that text together."""
    same = duplicates(rollouts)
    first = same.argmax(-1) == np.arange(same.shape[1])[None]
    return first, np.einsum("bij,bj->bi", same, rollouts.weights.astype(np.float64))
