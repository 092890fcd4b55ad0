"""What an oracle answers, before anything is made of it: probabilities of these responses that add up."""

from collections.abc import Iterator
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from jaxalign.contracts.arrays import TOLERANCE, array_problems, described
from jaxalign.errors import BrokenContract, ConfigError
from jaxalign.types import Preferences, Rollouts


@runtime_checkable
class MeetsPolicy(Protocol):
    """An oracle whose probabilities of two answers depend on what else the policy says: its game is no matrix, and what
    is known of matrix games is not told of it."""

    meets_policy: ClassVar[bool]


@runtime_checkable
class LeastAnswers(Protocol):
    """An oracle that can say nothing of fewer sampled answers to a prompt than so many."""

    @property
    def least_answers(self) -> int: ...


def checked(found: object, rollouts: Rollouts, name: str, objectives: int | None = None) -> Preferences:
    """What the oracle of that name has found. Raises BrokenContract where it is no Preferences of the rollouts,
    ConfigError where its annotators are not as many as the combiner's `objectives` (None: it combines none)."""
    for problem in problems(found, rollouts):
        raise BrokenContract(f"oracle {name}: {problem}")
    assert isinstance(found, Preferences)
    check_objectives(name, found.annotators, objectives)
    return found


def check_objectives(name: str, annotators: tuple[str, ...], objectives: int | None) -> None:
    """Raises ConfigError unless an oracle of that name has as many annotators as the combiner has objectives."""
    if objectives not in (None, len(annotators)):
        raise ConfigError(
            f"combiner: has {objectives} objectives, and oracle {name} {len(annotators)} annotators: "
            + ", ".join(annotators)
        )


def problems(found: object, rollouts: Rollouts) -> Iterator[str]:
    """What is wrong with an answer, the first thing first: later ones may be of its making."""
    if not isinstance(found, Preferences):
        yield f"must answer with Preferences, got {described(found)}"
        return
    yield from name_problems(found.annotators)
    (count, samples), annotators = rollouts.lengths.shape, len(found.annotators)
    yield from share_problems(found)
    yield from note_problems(found.notes, count)
    yield from array_problems("prefer", found.prefer, (count, samples, samples))
    yield from array_problems("by_annotator", found.by_annotator, (count, annotators, samples, samples))
    if found.scores is not None:
        yield from array_problems("scores", found.scores, (count, annotators, samples))
    names = [prompt.id for prompt in rollouts.prompts]
    yield from probability_problems("prefer", found.prefer, names)
    for index, annotator in enumerate(found.annotators):
        yield from probability_problems(f"annotator {annotator!r}", found.by_annotator[:, index], names)


def name_problems(annotators: object) -> Iterator[str]:
    """What is wrong with the names of the annotators."""
    names = [name for name in annotators if isinstance(name, str)] if isinstance(annotators, tuple) else []
    if not names or len(set(names)) != len(names) or tuple(names) != annotators:
        yield f"annotators must be a tuple of different names, one at least, got {annotators!r}"


def note_problems(notes: object, count: int) -> Iterator[str]:
    """What is wrong with notes on `count` prompts."""
    if not isinstance(notes, dict) or not all(isinstance(name, str) for name in notes):
        yield f"notes must be a dict of arrays by name, got {notes!r}"
        return
    for name, counts in notes.items():
        yield from array_problems(f"notes[{name!r}]", counts, (count,), np.float32)


def share_problems(found: Preferences) -> Iterator[str]:
    """What is wrong with the weights of the annotators."""
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
