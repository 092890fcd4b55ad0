"""Batches that cost about the same: a shuffled order in which a few units have changed places.

Where a step's rows are filled with its units, all steps have the rows of the fullest batch. By chance a batch of 64
pairs of dialogues has a quarter more tokens than the mean; after about three exchanges for each batch it is half a
percent. Every unit is still in every epoch once, and all but those exchanged are where chance has put them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

EVEN = 0.005
"""By what part of the mean the cost of a batch may differ from it."""

EXCHANGES = 40
"""For each batch, at most: where units are few and of very different length no exchange makes them even."""


class Costs(NamedTuple):
    """What n units cost: tokens without their prompt, those of the prompt, and which prompt it is: a batch has it
    once."""

    own: Int[np.ndarray, " n"]
    trunk: Int[np.ndarray, " n"]
    prompt: Int[np.ndarray, " n"]

    def of(self, batch: Int[np.ndarray, " size"]) -> int:
        """Tokens of a batch."""
        _, first = np.unique(self.prompt[batch], return_index=True)
        return int(self.own[batch].sum() + self.trunk[batch[first]].sum())


def levelled(order: Int[np.ndarray, " n"], costs: Costs, size: int) -> Int[np.ndarray, " n"]:
    """The same numbers, with full batches of `size` that cost about the same. The fullest and the emptiest exchange
    the two units after which both are nearest to the mean, until all are near it. A last, short batch stays."""
    count = len(order) // size
    batches = order[: count * size].reshape(count, size).copy()
    filled = np.array([costs.of(batch) for batch in batches], np.float64)
    mean = filled.mean() if count else 0.0
    for _ in range(EXCHANGES * count):
        full, empty = int(np.argmax(filled)), int(np.argmin(filled))
        worst = max(filled[full] - mean, mean - filled[empty])
        if worst <= EVEN * mean:
            break
        less, more = _exchanged(costs, batches[full], batches[empty])
        off = np.maximum(abs(filled[full] + less - mean), abs(filled[empty] + more - mean))
        one, other = np.unravel_index(off.argmin(), off.shape)
        if not off[one, other] < worst:
            break
        batches[full, one], batches[empty, other] = batches[empty, other], batches[full, one]
        filled[full] += less[one, other]
        filled[empty] += more[one, other]
    return np.concatenate([batches.reshape(-1), order[count * size :]])


def _exchanged(
    costs: Costs, one: Int[np.ndarray, " a"], other: Int[np.ndarray, " b"]
) -> tuple[Float[np.ndarray, "a b"], Float[np.ndarray, "a b"]]:
    """By how many tokens either batch changes where unit i of the one and unit j of the other change places; without
    end where these have the same prompt."""
    prompts = costs.prompt[one], costs.prompt[other]
    same = prompts[0][:, None] == prompts[1]
    gone, come = [], []
    for batch, own, there in ((one, prompts[0], same.any(1)), (other, prompts[1], same.any(0))):
        lone = (own[:, None] == own).sum(1) == 1  # the prompt goes with the last of its units
        gone.append(costs.own[batch] + np.where(lone, costs.trunk[batch], 0))
        come.append(costs.own[batch] + np.where(there, 0, costs.trunk[batch]))
    less, more = come[1] - gone[0][:, None], come[0][:, None] - gone[1]
    return np.where(same, np.inf, less), np.where(same, np.inf, more)
