"""Objectives that nobody has to be asked about: votes that follow from the answers themselves, beside those of people.

RACO's verbosity is one (Chen et al. 2026, arXiv 2602.02495): the shorter answer wins, whatever its worth. An annotator
of a panel (`oracles.annotators`) can judge recorded answers here where it is a pure function of prompt and texts; a
reward model that was trained, which has weights to open, cannot.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from jaxalign.data.comparisons import pairs
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.tables.strict import Tally
from jaxalign.errors import DataError
from jaxalign.types import Prompt


@runtime_checkable
class Objective(Protocol):
    """(prompt, first answer, second answer) → P(first ≻ second) in [0, 1], 1/2 where they are even. Pure; with the
    answers exchanged it says the complement."""

    def vote(self, prompt: Prompt, first: str, second: str) -> float: ...


@runtime_checkable
class Quality(Protocol):
    """(prompt, texts) → one finite score a text, higher is better: what annotators of a panel are."""

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, " m"]: ...


@dataclass(frozen=True)
class Shorter:
    """Brevity: the shorter answer is better, for certain."""

    by: Literal["words", "characters"] = "words"
    """what is counted; words are what blanks part"""
    close: float = 0.0
    """share of the longer one's length up to which a difference is a tie, in [0, 1)"""

    def problems(self) -> Iterable[str]:
        if not 0 <= self.close < 1:
            yield f"close must lie in [0, 1), got {self.close}"

    def vote(self, prompt: Prompt, first: str, second: str) -> float:
        one, other = (len(text.split() if self.by == "words" else text) for text in (first, second))
        if abs(one - other) <= self.close * max(one, other):
            return 0.5
        return float(one < other)


@dataclass(frozen=True)
class Better:
    """The answer of the higher score is better: P = σ(difference / temperature), certain at temperature 0."""

    quality: Quality
    """who scores"""
    temperature: float = 0.0
    """score difference at which the odds are e, >= 0"""

    def problems(self) -> Iterable[str]:
        if not self.temperature >= 0:
            yield f"temperature must not be negative, got {self.temperature}"

    def vote(self, prompt: Prompt, first: str, second: str) -> float:
        one, other = scores_of(self.quality, prompt, (first, second))
        if self.temperature == 0:
            return (1 + float(np.sign(one - other))) / 2
        return float((1 + np.tanh((one - other) / (2 * self.temperature))) / 2)


@dataclass(frozen=True)
class Derived:
    """The pairs of a source, whose votes are those that it has and those of `objectives`, in this order.

    The label of a pair, and which of its answers stands first, stay the source's.
    """

    source: Comparisons
    """where the pairs come from"""
    objectives: tuple[Objective, ...] = (Shorter(),)
    """what is said of them besides"""

    def problems(self) -> Iterable[str]:
        if self.source.responses != 2:
            yield "source has lone answers, and objectives compare two"
        if not self.objectives:
            yield "objectives is empty: take the source alone"

    @property
    def responses(self) -> int:
        """Those of the source."""
        return self.source.responses

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The pairs. DataError, naming the row, for a quality that scores a text NaN or does not score it."""
        for each in self.source.read(tally):
            try:
                found = tuple(objective.vote(each.prompt, *each.answers) for objective in self.objectives)
            except DataError as error:
                raise DataError(f"{each.place}: {error}") from error
            yield replace(each, votes=(*each.votes, *found))


def scores_of(quality: Quality, prompt: Prompt, texts: tuple[str, ...]) -> tuple[float, ...]:
    """The score of each text. DataError unless each has one, and it is finite."""
    found = np.asarray(quality(prompt, texts), np.float64)
    if found.shape != (len(texts),) or not np.isfinite(found).all():
        raise DataError(f"{type(quality).__name__} must give a finite score a text, {len(texts)} in all; got {found}")
    return tuple(found.tolist())


EXAMPLES = (Shorter(), Derived(pairs.EXAMPLE))
