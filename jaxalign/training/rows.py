"""Training groups → token rows. Each group is one row: its prompt once, then its responses as branches.

Sharing the prompt between the responses of a group saves its recomputation (Wang & Hegde 2024, arXiv 2410.20305).
Shapes are chosen once for a whole fit, so the step compiles once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxalign.mesh.rounding import rounded
from jaxalign.types import Batch, Groups, Rollouts, Rows

COLUMNS = 32
"""Rows, and the tables of what is scored, are made in multiples of so many tokens."""


@dataclass(frozen=True)
class RowShape:
    """Static sizes of the rows of a fit, tokens: s, q and t of the dimension letters."""

    row: int
    scored: int
    response: int


def row_shape(rollouts: Rollouts, groups: Groups, multiple: int = COLUMNS) -> RowShape:
    """The smallest shape that holds every group, rounded up to `multiple` so that few shapes are ever compiled."""
    lengths = rollouts.lengths[groups.prompt[:, None], groups.responses]
    rows = rollouts.prompt_lengths[groups.prompt] + lengths.sum(-1)
    longest = (rows.max(initial=1), lengths.sum(-1).max(initial=1), lengths.max(initial=1))
    return RowShape(*(rounded(int(size), multiple) for size in longest))


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
    count, responses = len(chosen), groups.responses.shape[1]
    mask = np.zeros((count, responses, shape.response), bool)
    rows = _empty_rows(count, shape)
    for row, group in enumerate(chosen):
        if group >= 0:
            _fill(rows, mask, row, rollouts, int(groups.prompt[group]), groups.responses[group])
    return Batch(
        rows=rows,
        mask=mask,
        prefer=_pick(groups.prefer, chosen),
        weight=_pick(groups.weight, chosen),
        win=_pick(groups.win, chosen),
        references={role: _pick(sums, chosen) for role, sums in references.items()},
    )


def stack_microbatches(batches: list[Batch]) -> Batch:
    """Batches of equal shapes with a new leading axis, the one gradient accumulation scans over."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _empty_rows(count: int, shape: RowShape) -> Rows:
    def full(width: int, value: int) -> np.ndarray:
        return np.full((count, width), value, np.int32)

    row, scored = shape.row, shape.scored
    return Rows(
        tokens=full(row, 0),
        group=full(row, -1),
        branch=full(row, 0),
        position=full(row, 0),
        source=full(scored, 0),
        target=full(scored, 0),
        slot=full(scored, -1),
    )


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


def _pick(values: np.ndarray, chosen: Int[np.ndarray, " b"]) -> np.ndarray:
    """Rows of `values`, zeros where chosen is -1."""
    real = (chosen >= 0).reshape(-1, *(1,) * (values.ndim - 1))
    return np.where(real, values[np.maximum(chosen, 0)], 0).astype(np.float32)
