"""Attention of rows that are cut into pieces, one a device: keys and values go round, queries stay.

Ring attention (Liu et al. 2023, arXiv 2310.01889). What the queries find in each piece is joined by the log-sum-exps,

    lse = log Σ_i e^(lse_i),  o = Σ_i e^(lse_i − lse) o_i

and backward each piece is given the whole row's o and lse, so that its gradients are those of the whole row's softmax;
gradients of keys and values go round with them until they are home. A device holds its own piece and the one that it
looks at, never the row's keys. Each step moves a piece that nothing waits for but the next step.

Pieces in the order of the row would leave the first device with nothing to see but itself, and the last with the whole
row. In `balanced` order all have as much (as in Brandon et al. 2023, arXiv 2311.09431): of 2p blocks of columns the
device i has the i-th from the left and the i-th from the right.
"""

import math
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.ops.attention.engine import Engine, Gradients
from jaxalign.ops.attention.problem import Problem, Scores


def balanced(columns: int, pieces: int) -> Int[np.ndarray, " s"] | None:
    """Columns of a row in the order in which they are cut into pieces. None where they keep their order: one piece, or
    columns that do not divide into two blocks a piece."""
    if pieces == 1 or columns % (2 * pieces):
        return None
    blocks = np.arange(columns).reshape(2 * pieces, -1)
    return np.stack([blocks[:pieces], blocks[: pieces - 1 : -1]], axis=1).reshape(-1)


@lru_cache
def engine(inner: Engine, axis: str, pieces: int) -> Engine:
    """`inner` on each piece, inside `shard_map` over a mesh axis of so many devices."""
    along = partial(jax.lax.ppermute, axis_name=axis, perm=[(i, (i + 1) % pieces) for i in range(pieces)])
    steps = pieces - 1

    def beside(problem: Problem, moving: Any) -> Problem:
        key, value, theirs = moving
        return replace(problem, key=key, value=value, theirs=theirs)

    def forward(problem: Problem, scores: Scores) -> tuple[Array, Array]:
        found, number = inner.forward(problem, scores)
        dtype, moving = found.dtype, (problem.key, problem.value, problem.theirs)
        for _ in range(steps):
            moving = along(moving)
            found, number = joined(
                inner, (found, number), inner.forward(beside(problem, moving), replace(scores, causal=False))
            )
        return found.astype(dtype), number

    def backward(problem: Problem, scores: Scores, found: Array, number: Array, of_found: Array) -> Gradients:
        gradients = inner.backward(problem, scores, found, number, of_found)
        of_query, *summed = [each.astype(jnp.float32) for each in gradients]
        moving = problem.key, problem.value, problem.theirs
        for _ in range(steps):
            moving, summed = along(moving), along(summed)
            here = inner.backward(beside(problem, moving), replace(scores, causal=False), found, number, of_found)
            sums = zip((of_query, *summed), here, strict=True)
            of_query, *summed = [total + each.astype(jnp.float32) for total, each in sums]
        of_key, of_value = along(summed)
        query, key, value = problem.query, problem.key, problem.value
        return of_query.astype(query.dtype), of_key.astype(key.dtype), of_value.astype(value.dtype)

    return Engine(f"ring of {inner.name}", forward, backward, inner.base)


Found = tuple[Float[Array, "n q k g h"], Float[Array, "n k g q"]]


def joined(inner: Engine, one: Found, other: Found) -> Found:
    """What queries find in two sets of keys together, fp32, and its number, of what they find in each."""
    unit = math.log(inner.base)
    numbers = one[1] * unit, other[1] * unit
    both = jnp.logaddexp(*numbers)

    def part(found: Array, lse: Array) -> Array:
        return jnp.moveaxis(jnp.exp(lse - both), -1, 1)[..., None] * found.astype(jnp.float32)

    return part(one[0], numbers[0]) + part(other[0], numbers[1]), both / unit
