"""A loss of several annotators' labels, each weighed: what it makes of every one's vote alone, and no more of ties."""

import dataclasses
from collections.abc import Callable, Iterator

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.errors import DataError
from jaxalign.types import GroupLogps


def by_vote(
    logps: GroupLogps, weights: tuple[float, ...], loss: Callable[[GroupLogps], Float[Array, " b"]]
) -> Float[Array, " b"]:
    """Σ_i w_i decided_i loss(votes_i). A tie, or a vote that is absent, counts 0 and has no gradient. Raises DataError
    unless there are as many annotators as weights."""
    each = apart(logps, len(weights), loss)
    return sum((weight * one for weight, one in zip(weights, each, strict=True)), start=jnp.zeros_like(logps.prefer))


def apart(logps: GroupLogps, count: int, loss: Callable[[GroupLogps], Float[Array, " b"]]) -> list[Float[Array, " b"]]:
    """decided_i loss(votes_i) of each of so many annotators. Raises DataError unless there are as many."""
    votes, decided = logps.labels.votes, logps.labels.decided
    if votes.shape[1] != count:
        raise DataError(
            f"there are votes of {votes.shape[1]} annotators and {count} weights: each annotator has one, in "
            "the order of the data or of the oracle's `names`, and combiner=Mixed() shows the loss all of them"
        )
    alone = [dataclasses.replace(logps, labels=logps.labels.of_annotator(index)) for index in range(count)]
    return [jnp.where(decided[:, index] > 0, loss(each), 0.0) for index, each in enumerate(alone)]


def weight_problems(weights: tuple[float, ...]) -> Iterator[str]:
    """What is wrong with such weights."""
    if not (weights and min(weights) >= 0 and max(weights) > 0):
        yield f"weights must be at least 0 and not all 0, got {weights}"
