"""Rollouts in pieces: cut, joined and put into order along any of their axes, by the letters of their columns."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxalign.types import Metrics, Prompt, Rollouts

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "prompts": ("b",),
    "texts": ("b", "m"),
    **{each.name: tuple(each.type.dim_str.split()) for each in fields(Rollouts) if hasattr(each.type, "dim_str")},
}
"""Column of `Rollouts` → the letters of its axes. Annotations of arrays say them; tuples of texts have none to say."""

TOKENS = ("p", "t")
"""Axes as long as the longest of some rows: other rows may have them longer, and 0 stands behind all of them."""


@dataclass(frozen=True)
class Share:
    """What one process has of a piece of rollouts: those of the prompts with these numbers among all prompts, and what
    is to be known of how they were drawn, a number a response by name."""

    numbers: Int[np.ndarray, " k"]
    rollouts: Rollouts
    notes: Mapping[str, Float[np.ndarray, "k m"]] = field(default_factory=dict)


def in_order(shares: Sequence[Share]) -> Rollouts:
    """One Rollouts of all shares, in the order of the prompts' numbers."""
    order = np.argsort(np.concatenate([share.numbers for share in shares]))
    return picked(joined([share.rollouts for share in shares]), order)


def note_metrics(shares: Sequence[Share]) -> Metrics:
    """`rollouts/<note>`: its mean over all responses."""
    names = sorted({name for share in shares for name in share.notes})
    each = {name: [share.notes[name].ravel() for share in shares if name in share.notes] for name in names}
    return {f"rollouts/{name}": float(np.concatenate(values).mean(dtype=np.float64)) for name, values in each.items()}


def remaining(shares: Iterable[Share], count: int) -> Int[np.ndarray, " k"]:
    """Numbers of the `count` prompts that no share has."""
    there = np.zeros(count, bool)
    for share in shares:
        there[share.numbers] = True
    return np.flatnonzero(~there)


def picked(
    rollouts: Rollouts, chosen: slice | Int[np.ndarray, " k"] | Bool[np.ndarray, " k"], axis: Literal["b", "m"] = "b"
) -> Rollouts:
    """Some of the prompts with their responses (b), or some of every prompt's responses (m), in the order chosen.

    Weights stay what they are, whatever they then sum to.
    """
    cut = {
        name: _cut(getattr(rollouts, name), chosen, letters.index(axis))
        for name, letters in COLUMNS.items()
        if axis in letters
    }
    return replace(rollouts, **cut)


def joined(parts: Sequence[Rollouts], axis: Literal["b", "m"] = "b") -> Rollouts:
    """The prompts of all parts, one part after the other (b); or of the first part's prompts the responses of all (m).

    Tokens are padded to the longest. Raises ValueError where the parts differ along the other axis.
    """
    made = {
        name: _joined([getattr(part, name) for part in parts], letters.index(axis), letters[-1] in TOKENS)
        for name, letters in COLUMNS.items()
        if axis in letters
    }
    return replace(parts[0], **made)


def given(
    prompt_tokens: Int[np.ndarray, "b p"],
    prompt_lengths: Int[np.ndarray, " b"],
    tokens: Int[np.ndarray, "b m t"],
    lengths: Int[np.ndarray, "b m"],
) -> Rollouts:
    """Tokens that no policy has drawn, as rollouts: without texts, finished, log-probs 0, of equal weights."""
    count, samples = lengths.shape
    return Rollouts(
        prompts=tuple(Prompt(str(index), ({"role": "user", "content": ""},)) for index in range(count)),
        texts=(("",) * samples,) * count,
        prompt_tokens=prompt_tokens,
        prompt_lengths=prompt_lengths,
        tokens=tokens,
        lengths=lengths,
        finished=np.ones((count, samples), bool),
        logps=np.zeros(tokens.shape, np.float32),
        weights=np.full((count, samples), 1 / samples, np.float32),
    )


def _cut(column: Any, chosen: Any, axis: int) -> Any:
    """An array, or tuples in tuples."""
    if isinstance(column, np.ndarray):
        return column[(slice(None),) * axis + (chosen,)]
    if axis:
        return tuple(_cut(row, chosen, axis - 1) for row in column)
    return tuple(column[index] for index in np.arange(len(column))[chosen])


def _joined(columns: Sequence[Any], axis: int, ragged: bool) -> Any:
    if isinstance(columns[0], np.ndarray):
        width = max(column.shape[-1] for column in columns)
        return np.concatenate([_padded(column, width) for column in columns] if ragged else columns, axis)
    if axis:
        return tuple(_joined(rows, axis - 1, ragged) for rows in zip(*columns, strict=True))
    return tuple(itertools.chain.from_iterable(columns))


def _padded(column: np.ndarray, width: int) -> np.ndarray:
    return np.pad(column, [(0, 0)] * (column.ndim - 1) + [(0, width - column.shape[-1])])
