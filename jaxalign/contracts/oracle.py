"""What an oracle answers, before anything is made of it: probabilities of these responses that add up."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxalign.contracts.arrays import TOLERANCE, array_problems, described
from jaxalign.errors import BrokenContract, ConfigError
from jaxalign.types import Oracle, Preferences, Rollouts


@dataclass(frozen=True)
class CheckedOracle:
    """`oracle`; raises BrokenContract for an answer that is no Preferences of the rollouts, ConfigError for one whose
    annotators are not as many as the combiner's `objectives` (None: it combines none)."""

    oracle: Oracle
    objectives: int | None = None

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        found, name = self.oracle(rollouts, key), type(self.oracle).__name__
        for problem in problems(found, rollouts):
            raise BrokenContract(f"oracle {name}: {problem}")
        if self.objectives not in (None, len(found.annotators)):
            raise ConfigError(
                f"combiner: has {self.objectives} objectives, and oracle {name} {len(found.annotators)} annotators: "
                + ", ".join(found.annotators)
            )
        return found


def problems(found: object, rollouts: Rollouts) -> Iterator[str]:
    """What is wrong with an answer, the first thing first: later ones may be of its making."""
    if not isinstance(found, Preferences):
        yield f"must answer with Preferences, got {described(found)}"
        return
    (count, samples), annotators = rollouts.lengths.shape, len(found.annotators)
    yield from share_problems(found)
    yield from array_problems("prefer", found.prefer, (count, samples, samples))
    yield from array_problems("by_annotator", found.by_annotator, (count, annotators, samples, samples))
    if found.scores is not None:
        yield from array_problems("scores", found.scores, (count, annotators, samples))
    names = [prompt.id for prompt in rollouts.prompts]
    yield from probability_problems("prefer", found.prefer, names)
    for index, annotator in enumerate(found.annotators):
        yield from probability_problems(f"annotator {annotator!r}", found.by_annotator[:, index], names)


def share_problems(found: Preferences) -> Iterator[str]:
    """Names and weights of the annotators."""
    if not found.annotators or len(set(found.annotators)) < len(found.annotators):
        yield f"annotators must be different names, one at least, got {found.annotators}"
    if len(found.weights) != len(found.annotators):
        yield f"there are {len(found.annotators)} annotators and {len(found.weights)} weights"
    elif not (min(found.weights) >= 0 and abs(sum(found.weights) - 1) <= TOLERANCE):
        yield f"weights must be at least 0 and sum to 1, got {found.weights}"


def probability_problems(name: str, table: Float[np.ndarray, "b m m"], prompts: list[str]) -> Iterator[str]:
    """The first pair of responses whose P(i ≻ j) is no probability, or does not complement that of j ≻ i."""
    wrong = ~((table >= 0) & (table <= 1)) | (np.abs(table + table.swapaxes(1, 2) - 1) > TOLERANCE)
    for prompt, i, j in np.argwhere(wrong):
        this, other = table[prompt, i, j], table[prompt, j, i]
        at = f"{name}: P({i} ≻ {j}) of the answers to prompt {prompts[prompt]!r}"
        if not 0 <= this <= 1:
            yield f"{at} is {this}, which is no probability"
        elif i == j:
            yield f"{at} is {this}: an answer against itself is at 1/2"
        else:
            yield f"{at} is {this} and P({j} ≻ {i}) is {other}; they must sum to 1"
