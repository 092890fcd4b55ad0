"""Pairs with what their answers differ in: the tokens of each that have no match in the other.

Where one answer was made from the other by editing it, what was edited is what was preferred (Jiang et al. 2024, arXiv
2408.07471). Tokens are matched as the paper's code matches them, by the longest runs that both answers have (Ratcliff &
Obershelp, Python's difflib), from the rejected one to the chosen one; in answers of 200 tokens or more no match but
the first begins at a token that is a hundredth of them. The code matches prompts and padding too, here answers alone,
and equal ones in full. It takes milliseconds a pair at each reading.
"""

from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import numpy as np
from jaxtyping import Int

from jaxalign.contracts.extras import extras_of
from jaxalign.data.groups import PickedGroups, Taken, TrainingGroups, Wrapped


@dataclass(frozen=True)
class Edited(Wrapped):
    """The groups, with the ids of the tokens in which their first two responses differ."""

    def take(self, numbers: Int[np.ndarray, " b"]) -> Taken:
        taken = self.groups.take(numbers)
        found = np.full(taken.tokens.shape, -1, np.int32)
        for group, (tokens, lengths) in enumerate(zip(taken.tokens, taken.lengths, strict=True)):
            chosen, rejected = tokens[0, : lengths[0]], tokens[1, : lengths[1]]
            for response, places in enumerate(edits(chosen.tolist(), rejected.tolist())):
                found[group, response, places] = tokens[response, places]
        return replace(taken, edited=found)


def edits(chosen: list[int], rejected: list[int]) -> tuple[list[int], list[int]]:
    """Places of the tokens of each that have no match in the other."""
    ours: list[int] = []
    theirs: list[int] = []
    if chosen != rejected:  # of which nothing is found where every token is frequent
        for what, begin, end, start, stop in SequenceMatcher(None, rejected, chosen).get_opcodes():
            if what != "equal":
                theirs += range(begin, end)
                ours += range(start, stop)
    return ours, theirs


def with_edits(loss: object, groups: TrainingGroups) -> TrainingGroups:
    """The groups with what was edited in them, if `loss` reads that."""
    return Edited(groups) if "edited" in extras_of(loss) else groups


def without_edits(groups: TrainingGroups) -> TrainingGroups:
    """The same groups for those who read no edits: looking for them costs time."""
    if isinstance(groups, PickedGroups):
        return replace(groups, groups=without_edits(groups.groups))
    return groups.groups if isinstance(groups, Edited) else groups
