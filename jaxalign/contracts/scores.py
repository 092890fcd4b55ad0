"""What losses of score models see: outputs on the last token of each answer, in place of log-probs."""

from collections.abc import Iterable
from typing import ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.errors import DataError
from jaxalign.types import Labels, pytree, widen


@pytree
class GroupScores:
    """The o outputs (logits) of a score model for r responses in each of b groups; index 0 chosen, 1 rejected.
    In fp32, whatever the constructor is given.

    `labels` are what is said of the groups.
    """

    outputs: Float[Array, "b r o"]
    labels: Labels

    def __post_init__(self) -> None:
        widen(self)

    @property
    def prefer(self) -> Float[Array, " b"]:
        """Probability that response 0 is preferred to response 1; of a lone response, that it is desirable."""
        return self.labels.prefer

    @property
    def score(self) -> Float[Array, "b r"]:
        """Each response's rating, in its own unit. Raises DataError where nobody rates."""
        if self.labels.score is None:
            raise DataError("the loss reads ratings and there are none")
        return self.labels.score

    @property
    def margin(self) -> Float[Array, " b"]:
        """How much better the winner is, in the data's unit, not negative. Raises DataError where nobody says it."""
        if self.labels.margin is None:
            raise DataError("the loss reads margins and there are none")
        return self.labels.margin


@runtime_checkable
class ScoreLoss(Protocol):
    """GroupScores → Float[b], unreduced. `needs` is empty: scores are compared with no reference."""

    needs: ClassVar[tuple[str, ...]]

    def misfits(self, outputs: int, responses: int) -> Iterable[str]:
        """Why it cannot read so many outputs of so many responses a group; nothing where it can."""
        ...

    def ranks(self, outputs: Float[Array, "b r o"]) -> Float[Array, "b r"]:
        """A number for each response, the larger the better; of a pair the difference is what the outputs say of it, of
        a lone response its sign."""
        ...

    def accuracies(self, scores: GroupScores) -> Float[Array, " b"]:
        """In each group the share of what is said that the outputs say too, in [0, 1]."""
        ...

    def __call__(self, scores: GroupScores) -> Float[Array, " b"]: ...


@runtime_checkable
class Compares(Protocol):
    """A score loss whose outputs are the log-odds of a yes or no."""

    def log_odds(self, outputs: Float[Array, "b r o"]) -> Float[Array, " b"]:
        """Of response 0 being better than response 1; of a lone response, being good. Nats."""
        ...


def agreement(log_odds: Float[Array, " b"], prefer: Float[Array, " b"]) -> Float[Array, " b"]:
    """Probability that the label says what the log-odds say; a draw of either counts half."""
    return jnp.where(log_odds == 0, 0.5, jnp.where(log_odds > 0, prefer, 1 - prefer))
