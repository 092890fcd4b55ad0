"""A matrix game as an oracle: the response is an action, P(i ≻ j) is looked up.

The game of the COMAL paper's synthetic experiment (Liu et al. 2024, arXiv 2410.23223) is `THREE_ACTION`: c ≻ b ≻ a ≻
c, whose only Nash policy is (4, 3, 4)/11.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, PRNGKeyArray

from jaxalign.errors import DataError
from jaxalign.oracles.panel import probabilities
from jaxalign.types import Preferences, Rollouts

THREE_ACTION = ((0.5, 0.1, 0.8), (0.9, 0.5, 0.1), (0.2, 0.9, 0.5))

TOLERANCE = 1e-9
"""Slack for P(i ≻ j) + P(j ≻ i) = 1: decimals are not exact in binary."""


@dataclass(frozen=True)
class TabularGame:
    """Oracle: action i is the response's first token, `matrix[i][j]` = P(i ≻ j). Needs no key."""

    matrix: tuple[tuple[float, ...], ...] = THREE_ACTION
    """P(i ≻ j): square, in [0, 1], with its transpose 1, diagonal 1/2"""

    @property
    def names(self) -> tuple[str, ...]:
        """One annotator: the game."""
        return ("game",)

    def problems(self) -> Iterable[str]:
        size = len(self.matrix)
        if size == 0:
            yield "matrix must have at least one action"
        for row, cells in enumerate(self.matrix):
            if len(cells) != size:
                yield f"matrix must be square: row {row} has {len(cells)} cells of {size}"
                return
        yield from (problem for row in range(size) for problem in self._cell_problems(row))

    def _cell_problems(self, row: int) -> Iterable[str]:
        for column in range(row, len(self.matrix)):
            cell, mirror = self.matrix[row][column], self.matrix[column][row]
            if not (0 <= cell <= 1 and 0 <= mirror <= 1):
                yield f"matrix[{row}][{column}] = {cell} and its mirror {mirror} must lie in [0, 1]"
            elif row == column and abs(cell - 0.5) > TOLERANCE:
                yield f"matrix[{row}][{row}] = {cell} must be 0.5: an action against itself"
            elif abs(cell + mirror - 1) > TOLERANCE:
                yield f"matrix[{row}][{column}] + matrix[{column}][{row}] = {cell} + {mirror} must be 1"

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's actions.

        Raises:
            DataError: a response whose first token is no action; names prompt and response.
        """
        actions = actions_of(rollouts, len(self.matrix))
        prefer = probabilities(np.asarray(self.matrix, np.float64)[actions[:, :, None], actions[:, None, :]] - 0.5)
        return Preferences(self.names, (1.0,), prefer, prefer[:, None], scores=None)


def actions_of(rollouts: Rollouts, count: int) -> Int[np.ndarray, "b m"]:
    """The actions that responses are: their first tokens.

    Raises:
        DataError: a response that is empty, or whose first token is none of `count` actions; names prompt and response.
    """
    actions = rollouts.tokens[:, :, 0]
    for prompt, response in np.argwhere((actions < 0) | (actions >= count) | (rollouts.lengths < 1)):
        raise DataError(
            f"response {response} of prompt {rollouts.prompts[prompt].id!r} is token {actions[prompt, response]}, "
            f"not one of the game's {count} actions"
        )
    return actions


EXAMPLE = TabularGame()
