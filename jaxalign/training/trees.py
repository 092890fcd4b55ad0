"""Groups as trees: those of one prompt together, their prompt once, and each different answer of theirs once.

A tree is what is laid into a row and never cut: a token sees its own tree alone.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from jaxalign.data.groups import TrainingGroups
from jaxalign.types import pytree


@pytree
class Measured:
    """Of some trees, or rows: tokens, those that are scored, those of the longest response, and responses."""

    row: Int[np.ndarray, " a"]
    scored: Int[np.ndarray, " a"]
    response: Int[np.ndarray, " a"]
    branches: Int[np.ndarray, " a"]

    def put(self, at: Int[np.ndarray, " a"], count: int) -> "Measured":
        """The same of `count` rows, `at` which each of these lies."""
        row, scored, branches = (
            np.bincount(at, each, count).astype(np.int64) for each in (self.row, self.scored, self.branches)
        )
        response = np.zeros(count, np.int64)
        np.maximum.at(response, at, self.response)
        return Measured(row, scored, response, branches)


@dataclass(frozen=True)
class Trees:
    """Numbers of k groups, tree after tree, which tree each is in, and the sizes of the a trees."""

    numbers: Int[np.ndarray, " k"]
    tree: Int[np.ndarray, " k"]
    sizes: Measured


def grown(groups: TrainingGroups, numbers: Int[np.ndarray, " k"], most: int) -> Trees:
    """The groups numbered so as few trees of at most `most` tokens; a longer one is of one group, which has as many."""
    numbers = numbers[by_answers(groups, numbers)]
    prompts = groups.prompts[numbers]
    begins = np.ones(len(numbers), bool)
    begins[1:] = np.diff(prompts) != 0
    tree = np.cumsum(begins) - 1
    sizes = measured(groups, numbers, tree)
    if (sizes.row > most).any():
        begins |= _cuts(groups, numbers, tree, sizes.row > most, most)
        tree = np.cumsum(begins) - 1
        sizes = measured(groups, numbers, tree)
    return Trees(numbers, tree, sizes)


def measured(groups: TrainingGroups, numbers: Int[np.ndarray, " k"], tree: Int[np.ndarray, " k"]) -> Measured:
    """Sizes of the trees of groups numbered so, of which `tree` says which each is in, those of one together."""
    line, lengths = different(groups, numbers, tree)
    count = int(tree[-1]) + 1 if len(tree) else 0
    first = np.searchsorted(tree, np.arange(count))
    ones = np.ones_like(lengths)
    made = Measured(lengths, lengths, lengths, ones).put(line, count)
    return Measured(groups.prompt_lengths[numbers[first]] + made.row, made.scored, made.response, made.branches)


def different(
    groups: TrainingGroups, numbers: Int[np.ndarray, " k"], tree: Int[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " z"], Int[np.ndarray, " z"]]:
    """Tree and length, tokens, of each different response of the groups numbered so."""
    line, lengths = np.repeat(tree, groups.responses), groups.lengths[numbers].ravel()
    answers = groups.answers[numbers].ravel()
    order = np.lexsort((answers, line))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(answers[order]) != 0) | (np.diff(line[order]) != 0)
    return line[order[first]], lengths[order[first]]


def by_answers(groups: TrainingGroups, numbers: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
    """The order of the groups numbered so prompt by prompt, and of a prompt by the answer of theirs that fewest groups
    have: beside it they have what many have, such as the one that all others are compared with."""
    _, which, counts = np.unique(groups.answers[numbers], return_inverse=True, return_counts=True)
    which = which.reshape(len(numbers), -1)
    rarest = np.argmin(counts[which], axis=1)
    return np.lexsort((which[np.arange(len(numbers)), rarest], groups.prompts[numbers]))


def _cuts(
    groups: TrainingGroups,
    numbers: Int[np.ndarray, " k"],
    tree: Int[np.ndarray, " k"],
    long: Bool[np.ndarray, " a"],
    most: int,
) -> Bool[np.ndarray, " k"]:
    """The groups at which trees that are too `long` are cut: each part holds what fits, in their order."""
    cuts = np.zeros(len(numbers), bool)
    for each in np.flatnonzero(long):
        first, end = np.searchsorted(tree, [each, each + 1])
        size, held = int(groups.prompt_lengths[numbers[first]]), set[int]()
        trunk = size
        for place in range(first, end):
            said = dict(zip(groups.answers[numbers[place]], groups.lengths[numbers[place]], strict=True))
            more = sum(int(length) for answer, length in said.items() if answer not in held)
            if held and size + more > most:
                cuts[place] = True
                size, held = trunk, set()
                more = int(sum(said.values()))
            size, held = size + more, held | set(said)
    return cuts
