"""What losses of lists go by: a number for each answer that says how good it is."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.types import GroupLogps

By = Literal["score", "win"]
"""Scores of the oracle or the data, in their unit, or probabilities to beat the policy that sampled."""


def ratings(logps: GroupLogps, by: By) -> Float[Array, "b r"]:
    """Raises DataError where nothing says it."""
    return logps.score if by == "score" else logps.win


def best_first(ratings: Float[Array, "b r"], values: Float[Array, "b r"]) -> Float[Array, "b r"]:
    """`values` in the order of falling ratings, equal ones as they stand."""
    order = jnp.argsort(-ratings, axis=-1, stable=True)
    return jnp.take_along_axis(values, order, axis=-1)
