"""The expectation over an uncertain label of what is said of a pair: what most pair losses are."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.margins import expected_over_labels
from jaxalign.losses.parts.contract import Link
from jaxalign.types import GroupLogps


def compared(logps: GroupLogps, scores: Float[Array, "b r"], link: Link) -> Float[Array, " b"]:
    """p · link(s(0), s(1)) + (1 − p) · link(s(1), s(0))."""
    return either_way(logps, lambda better, worse: link(scores[:, better], scores[:, worse]))


def either_way(logps: GroupLogps, loss: Callable[[int, int], Float[Array, " b"]]) -> Float[Array, " b"]:
    """p · loss(0, 1) + (1 − p) · loss(1, 0), of a loss (number of the better answer, of the worse one)."""
    return expected_over_labels(logps.prefer, loss(0, 1), loss(1, 0))


def oriented(logps: GroupLogps, values: Float[Array, "b 2"]) -> Float[Array, "b 2"]:
    """The values of the likelier answer and of the other one, for losses that cannot take both orders of a pair."""
    return jnp.where(logps.prefer[:, None] >= 0.5, values, values[:, ::-1])
