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
    votes, decided = logps.labels.votes, logps.labels.decided
    if votes.shape[1] != len(weights):
        raise DataError(
            f"there are votes of {votes.shape[1]} annotators and {len(weights)} weights: each annotator has one, in "
            "the order of the data or of the oracle's `names`, and combiner=Mixed() shows the loss all of them"
        )
    total = jnp.zeros_like(logps.prefer)
    for index, weight in enumerate(weights):
        alone = dataclasses.replace(logps, labels=logps.labels.of_annotator(index))
        total += jnp.where(decided[:, index] > 0, weight * loss(alone), 0.0)
    return total


def weight_problems(weights: tuple[float, ...]) -> Iterator[str]:
    """What is wrong with such weights."""
    if not (weights and min(weights) >= 0 and max(weights) > 0):
        yield f"weights must be at least 0 and not all 0, got {weights}"
