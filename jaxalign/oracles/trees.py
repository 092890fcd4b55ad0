"""What a judge reads as token rows that are trees: conversations that begin alike share their beginning.

A judge reads answers to one prompt. In its template the conversations begin with the same tokens, mostly, and these
are the trunk of a row; the rest of each is a branch. The trunk is whatever the ids have in common and not what a
template promises, so nothing about templates is assumed: one that writes the answer first gives a trunk of no tokens.
Conversations whose sharing would save little are lines of their own, which are shorter. A row has one line, and behind
it as many short ones as its padding has room for.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from jaxalign.mesh.rounding import rounded
from jaxalign.types import Rows

SAVED = 0.25
"""Share of the tokens that a common trunk must save: below it the longer rows cost more in attention than it saves."""

COLUMNS = 64
"""Rows up to a few hundred tokens are multiples of so many."""

Ids = Sequence[int]


@dataclass(frozen=True)
class Line:
    """A row, or a part of one: a trunk, and behind it the rest of each of the conversations numbered `numbers`."""

    trunk: Ids
    branches: tuple[Ids, ...]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.trunk) + sum(map(len, self.branches))


def lines(groups: Iterable[Sequence[Ids]], longest: int) -> tuple[tuple[Line, ...], Int[np.ndarray, " k"]]:
    """The lines of groups of conversations, none longer than `longest`, and for every conversation of all groups, one
    after the other, the one that is read in its place: the same ids within a group are read once.

    Conversations have 1 to `longest` tokens. Longest lines come first.
    """
    made: list[Line] = []
    stands_for: list[int] = []
    for group in groups:
        first: dict[tuple[int, ...], int] = {}
        before = len(stands_for)
        for number, ids in enumerate(group, before):
            stands_for.append(first.setdefault(tuple(ids), number))
        made += grown(tuple(first), tuple(first.values()), longest)
    return tuple(sorted(made, key=len, reverse=True)), np.array(stands_for, np.int64)


def grown(conversations: Sequence[Ids], numbers: Sequence[int], longest: int) -> Iterator[Line]:
    """The lines of different conversations that are read together."""
    tokens, trunk = sum(map(len, conversations)), shared(conversations)
    if trunk * (len(conversations) - 1) < SAVED * tokens:
        trunk = 0
    branches: list[Ids] = []
    taken: list[int] = []
    for number, ids in zip(numbers, conversations, strict=True):
        room = longest - trunk - sum(map(len, branches))
        if branches and (trunk == 0 or len(ids) - trunk > room):
            yield Line(conversations[0][:trunk], tuple(branches), tuple(taken))
            branches, taken = [], []
        branches.append(ids[trunk:])
        taken.append(number)
    if branches:
        yield Line(conversations[0][:trunk], tuple(branches), tuple(taken))


def shared(conversations: Sequence[Ids]) -> int:
    """Tokens that all begin with, at least one short of the shortest: every branch ends with a token of its own."""
    if not conversations:
        return 0
    # what the first and the last in order share, all do
    low, high = min(conversations, key=tuple), max(conversations, key=tuple)
    most = min(map(len, conversations)) - 1
    return next((place for place in range(most) if low[place] != high[place]), most)


def width(length: int) -> int:
    """Tokens of a row that holds `length`: few widths, so that few programs are compiled, and at most a quarter of a
    row is padding beyond the first 256 tokens."""
    return rounded(length, max(COLUMNS, 2 ** (length - 1).bit_length() // 8))


def batches(made: Sequence[Line], rows: int) -> Iterator[tuple[list[list[Line]], int]]:
    """Lines, longest first, as up to `rows` rows at a time and the columns of these. A row has the longest line that is
    left; behind it, where others would have padding, the longest that fit."""
    left = list(reversed(made))
    while left:
        batch = [[left.pop()] for _ in range(min(rows, len(left)))]
        columns = width(len(batch[0][0]))
        for row in reversed(batch):
            room = columns - len(row[0])
            while fits := bisect_right(left, room, key=len):
                row.append(left.pop(fits - 1))
                room -= len(row[-1])
        yield batch, columns


def packed(made: Sequence[Sequence[Line]], here: Bool[np.ndarray, " n"], columns: int) -> Rows:
    """Rows of that many columns, as many as `here` has entries, those filled that are `here`; beyond the lines empty.
    Each line is a group of its own, and branches are counted through a row. Nothing is listed as scored: what is read
    of them is their branches' last tokens."""
    count = len(here)
    tokens, branch, position = (np.zeros((count, columns), np.int32) for _ in range(3))
    group = np.full((count, columns), -1, np.int32)
    for row, held in enumerate(made):
        start = before = 0
        for nth, line in enumerate(held if here[row] else ()):
            begin, start = start, start + len(line.trunk)
            tokens[row, begin:start], position[row, begin:start] = line.trunk, np.arange(len(line.trunk))
            for number, ids in enumerate(line.branches, before + 1):
                stop = start + len(ids)
                tokens[row, start:stop], branch[row, start:stop] = ids, number
                position[row, start:stop] = len(line.trunk) + np.arange(len(ids))
                start = stop
            group[row, begin:start] = row + nth * count
            before += len(line.branches)
    nothing = np.zeros((count, 0), np.int32)
    return Rows(tokens, group, branch, position, source=nothing, target=nothing, slot=nothing)
