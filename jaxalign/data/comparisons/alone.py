"""Pairs taken apart: each answer by itself, with how often it was the better one.

This is how unpaired losses are trained on pairs (Ethayarajh et al. 2024, arXiv 2402.01306, §4.2): the chosen answer is
a good one, the rejected one is not. An answer that stands in several pairs of a row comes once: its label is its mean
P(better), its weight the sum of theirs.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxalign.data.comparisons import pairs
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.tables.strict import Tally


@dataclass(frozen=True)
class Alone:
    """The answers of pairs, lone ones: P(desirable) is P(preferred to the others it was compared with)."""

    responses: ClassVar[int] = 1
    source: Comparisons
    """where the pairs come from"""

    def problems(self) -> Iterable[str]:
        if self.source.responses < 2:
            yield "source has lone answers already"

    def read(self, tally: Tally) -> Iterator[Comparison]:
        """The answers, those of a row one after another."""
        for _, row in itertools.groupby(self.source.read(tally), lambda each: each.place):
            yield from apart(list(row))


def apart(row: Sequence[Comparison]) -> Iterator[Comparison]:
    """Each different answer of the pairs of one row, in the order of their first pairs."""
    sides: dict[str, list[tuple[Comparison, int]]] = {}
    for pair in row:
        for side, answer in enumerate(pair.answers):
            sides.setdefault(answer, []).append((pair, side))
    for answer, found in sides.items():
        (first, side), shares = found[0], [pair.weight for pair, _ in found]
        each = zip(*([_of(vote, side) for vote in pair.votes] for pair, side in found), strict=True)
        yield Comparison(
            prompt=first.prompt,
            answers=(answer,),
            prefer=_mean([_of(pair.prefer, side) for pair, side in found], shares) or 0.0,
            votes=tuple(_mean(votes, shares) for votes in each),
            place=first.place,
            scores=None if first.scores is None else (first.scores[side],),
            weight=sum(shares),
        )


def _of(prefer: float | None, side: int) -> float | None:
    """P(the answer of that side is preferred)."""
    return prefer if prefer is None or side == 0 else 1 - prefer


def _mean(values: Iterable[float | None], shares: Sequence[float]) -> float | None:
    """By weight, of those that are there; None of none."""
    said = [(value, share) for value, share in zip(values, shares, strict=True) if value is not None]
    total = sum(share for _, share in said)
    return sum(value * share for value, share in said) / total if total else None


EXAMPLE = Alone(pairs.EXAMPLE)
