"""Training groups → token rows. Each group is one row: its prompt once, then its responses as branches.

Sharing the prompt between the responses of a group saves its recomputation (Wang & Hegde 2024, arXiv 2410.20305).
Shapes are chosen once for a whole fit, so the step compiles once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxalign.types import Batch, Groups, Labels, Rollouts, Rows

T = TypeVar("T")

COLUMNS = 32
"""Rows, and the tables of what is scored, are made in multiples of so many tokens."""


RESPONSES = 2
"""Responses of a training group, for what is planned before there are groups: all pairings make pairs."""


@dataclass(frozen=True)
class RowShape:
    """Static sizes of the rows of a fit, tokens: s, q and t of the dimension letters."""

    row: int
    scored: int
    response: int

    @classmethod
    def holding(cls, row: int, scored: int, response: int, multiple: int = COLUMNS) -> "RowShape":
        """The smallest shape that holds so many tokens of each, few shapes being ever compiled."""
        return cls(*(rounded(size, multiple) for size in (row, scored, response)))

    @classmethod
    def longest(cls, prompt: int, response: int) -> "RowShape":
        """The shape that holds any group of responses of up to `response` tokens to a prompt of up to `prompt`."""
        return cls.holding(prompt + RESPONSES * response, RESPONSES * response, response)


def rounded(size: int, multiple: int = COLUMNS) -> int:
    """`size`, rounded up."""
    return -(-size // multiple) * multiple


def row_shape(rollouts: Rollouts, groups: Groups, multiple: int = COLUMNS) -> RowShape:
    """The smallest shape that holds every group, rounded up to `multiple` so that few shapes are ever compiled."""
    lengths = rollouts.lengths[groups.prompt[:, None], groups.responses]
    rows = rollouts.prompt_lengths[groups.prompt] + lengths.sum(-1)
    row, scored, response = (int(each.max(initial=1)) for each in (rows, lengths.sum(-1), lengths))
    return RowShape.holding(row, scored, response, multiple)


def pack(
    rollouts: Rollouts,
    groups: Groups,
    chosen: Int[np.ndarray, " b"],
    shape: RowShape,
    references: Mapping[str, Float[np.ndarray, "g r"]],
) -> Batch:
    """The rows of the groups numbered `chosen`; -1 gives an empty row of weight 0. NumPy leaves.

    `references` are log-prob sums by role for all groups; the batch carries those of its own.
    """
    rows, mask = _empty(len(chosen), groups.responses.shape[1], shape)
    for row, group in enumerate(chosen):
        if group >= 0:
            _fill(rows, mask, row, rollouts, int(groups.prompt[group]), groups.responses[group])
    columns = _picked((groups.weight, groups.labels, dict(references)), chosen)
    return Batch(rows, mask, *columns)


def abstract_batch(shape: RowShape, groups: int, stored: Iterable[str], objectives: int = 1) -> Batch:
    """Shapes and dtypes of what `pack` makes of so many groups, with reference columns of the roles in `stored`."""
    labels = Labels.unsaid(1, RESPONSES, objectives)
    references = {role: np.zeros((1, RESPONSES), np.float32) for role in stored}
    one = Batch(*_empty(1, RESPONSES, shape), np.zeros(1, np.float32), labels, references)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((groups, *leaf.shape[1:]), leaf.dtype), one)


def stack_microbatches(batches: list[Batch]) -> Batch:
    """Batches of equal shapes with a new leading axis, the one gradient accumulation scans over."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _empty(count: int, responses: int, shape: RowShape) -> tuple[Rows, Bool[np.ndarray, "b r t"]]:
    """Rows of padding, and the mask of responses that have no token."""

    def full(width: int, value: int) -> np.ndarray:
        return np.full((count, width), value, np.int32)

    row, scored = shape.row, shape.scored
    rows = Rows(
        tokens=full(row, 0),
        group=full(row, -1),
        branch=full(row, 0),
        position=full(row, 0),
        source=full(scored, 0),
        target=full(scored, 0),
        slot=full(scored, -1),
    )
    return rows, np.zeros((count, responses, shape.response), bool)


def _fill(
    rows: Rows, mask: np.ndarray, row: int, rollouts: Rollouts, prompt: int, responses: Int[np.ndarray, " r"]
) -> None:
    """Writes one group into row `row` of the (host) arrays."""
    trunk = int(rollouts.prompt_lengths[prompt])
    _write(rows, row, 0, rollouts.prompt_tokens[prompt, :trunk], branch=0, position=0)
    start, scored = trunk, 0
    for index, response in enumerate(responses):
        length = int(rollouts.lengths[prompt, response])
        tokens = rollouts.tokens[prompt, response, :length]
        _write(rows, row, start, tokens, branch=index + 1, position=trunk)
        # The first token of a branch follows the last of the trunk, each further one its neighbour in the row.
        source = np.concatenate([[trunk - 1], np.arange(start, start + length - 1)])[:length]
        where = slice(scored, scored + length)
        rows.source[row, where] = source
        rows.target[row, where] = tokens
        rows.slot[row, where] = np.ravel_multi_index((row, index, np.arange(length)), mask.shape)
        mask[row, index, :length] = True
        start, scored = start + length, scored + length


def _write(rows: Rows, row: int, start: int, tokens: np.ndarray, branch: int, position: int) -> None:
    where = slice(start, start + len(tokens))
    rows.tokens[row, where] = tokens
    rows.group[row, where] = row
    rows.branch[row, where] = branch
    rows.position[row, where] = position + np.arange(len(tokens))


def _picked(tree: T, chosen: Int[np.ndarray, " b"]) -> T:
    """Rows of all arrays of `tree`, zeros where chosen is -1."""

    def pick(values: np.ndarray) -> np.ndarray:
        found = values[np.maximum(chosen, 0)]
        found[chosen < 0] = 0
        return found

    return jax.tree.map(pick, tree)
