"""What a pairing makes of rollouts and preferences, before it is trained on: responses that exist, real labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.contracts.arrays import array_problems, described, range_problems
from jaxalign.contracts.group_size import PAIR
from jaxalign.errors import BrokenContract
from jaxalign.types import Groups, Labels, Pairing, Preferences, Rollouts


@runtime_checkable
class Sized(Protocol):
    """A pairing of groups of other sizes than pairs."""

    @property
    def responses(self) -> int:
        """Answers of each group, >= 1; the first two are what is looked at as a pair, the better one first."""
        ...


Third = Literal["anchor", "policy"]
"""Whose the third answer of a group is."""


@runtime_checkable
class OfBoth(Protocol):
    """A pairing of the policy's answers and as many of its anchor's, which stand behind them (`BesideAnchor`); it says
    whose the third answer of each group is. Or a loss that reads such groups. The anchor's is one of the pair again;
    the policy's stands beside a pair of the anchor's. None: of no loss that reads one."""

    @property
    def third(self) -> Third | None: ...


def third_of(made: object) -> Third | None:
    """Whose the third answer is of the groups that a pairing makes, or a loss reads; None where they have none."""
    return made.third if isinstance(made, OfBoth) else None


@runtime_checkable
class Staged(Protocol):
    """A pairing that is another one in each iteration."""

    def at(self, iteration: int) -> Pairing:
        """What it is in that iteration."""
        ...


def pairing_at(pairing: Pairing, iteration: int) -> Pairing:
    """The pairing of an iteration: itself, unless it is staged."""
    return pairing.at(iteration) if isinstance(pairing, Staged) else pairing


def group_size(pairing: Pairing) -> int:
    """Answers of each group that `pairing` makes."""
    return pairing.responses if isinstance(pairing, Sized) else PAIR


@dataclass(frozen=True)
class CheckedPairing:
    """`pairing`; raises BrokenContract for what are no Groups of the rollouts."""

    pairing: Pairing

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        found = self.pairing(rollouts, preferences, key)
        for problem in problems(found, rollouts, len(preferences.annotators), group_size(self.pairing)):
            raise BrokenContract(f"pairing {type(self.pairing).__name__}: {problem}")
        return found


def problems(found: object, rollouts: Rollouts, annotators: int, size: int) -> Iterator[str]:
    """What is wrong with groups of `size` answers, the first thing first: later ones may be of its making. Groups may
    be none."""
    if not isinstance(found, Groups):
        yield f"must make Groups, got {described(found)}"
        return
    responses, (prompts, samples) = found.responses, rollouts.lengths.shape
    if not isinstance(responses, np.ndarray) or responses.ndim != 2 or responses.shape[1] != size:
        yield f"responses must be [groups, {size}], got {described(responses)}"
    if not isinstance(found.labels, Labels):
        yield f"labels must be Labels, got {described(found.labels)}"
    table = (count := len(responses), responses.shape[1])
    yield from array_problems("prompt", found.prompt, (count,), np.integer)
    yield from array_problems("responses", found.responses, table, np.integer)
    yield from array_problems("weight", found.weight, (count,), np.float32)
    yield from range_problems("prompt", found.prompt, 0, prompts - 1)
    yield from range_problems("responses", found.responses, 0, samples - 1)
    yield from range_problems("weight", found.weight, 0, np.inf)
    yield from label_problems(found.labels, table, annotators)


def label_problems(labels: Labels, table: tuple[int, int], annotators: int) -> Iterator[str]:
    """What is wrong with the labels of groups, `table` being their shape [g r]."""
    votes = (table[0], annotators)
    yield from array_problems("labels.prefer", labels.prefer, table[:1], np.float32)
    yield from array_problems("labels.votes", labels.votes, votes, np.float32)
    yield from array_problems("labels.decided", labels.decided, votes, np.float32)
    if labels.score is not None:
        yield from array_problems("labels.score", labels.score, table, np.float32)
    if labels.win is not None:
        yield from array_problems("labels.win", labels.win, table, np.float32)
        yield from range_problems("labels.win", labels.win, 0, 1)
    for name in ("prefer", "votes", "decided"):
        yield from range_problems(f"labels.{name}", getattr(labels, name), 0, 1)
