"""Attention as it is written: all scores at once. The yardstick, and the fastest where they are few.

Letters besides those of `jaxalign.types`: q queries, k KV heads, g query heads per KV head, h head size. Softmax is
fp32.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxalign.ops.softcap import softcap

MASKED = -1e30
"""Score of what may not be seen: finite, so that a row that sees nothing (padding) averages instead of dividing 0/0."""


def dense(
    query: Float[Array, "n q k g h"],
    key: Float[Array, "n k h c"],
    value: Float[Array, "n k c h"],
    mask: Bool[Array, "n q c"],
    scalar: float,
    cap: float | None,
) -> Float[Array, "n q k g h"]:
    """softmax(softcap(q·kᵀ / sqrt(scalar))) · v over the columns that `mask` shows."""
    scores = softcap(match(query, key) / math.sqrt(scalar), cap)
    scores = jnp.where(mask[:, None, None], scores, MASKED)
    share = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("nkgsc,nkch->nskgh", share, value)


def match(query: Float[Array, "n q k g h"], key: Float[Array, "n k h c"]) -> Float[Array, "n k g q c"]:
    """q·k, accumulated in fp32."""
    return wide("nskgh,nkhc->nkgsc", query, key)


def wide(subscripts: str, left: Array, right: Array) -> Array:
    """An einsum accumulated in fp32. XLA has none of bf16 for the CPU, so there the operands are widened."""

    def product(one: Array, two: Array) -> Array:
        return jnp.einsum(subscripts, one, two, preferred_element_type=jnp.float32)

    def widened(one: Array, two: Array) -> Array:
        return product(one.astype(jnp.float32), two.astype(jnp.float32))

    if left.dtype == jnp.float32:
        return product(left, right)
    return jax.lax.platform_dependent(left, right, cpu=widened, default=product)
