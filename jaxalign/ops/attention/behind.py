"""Attention of continuations: one new token a row, which sees its prompt and what the row has said since.

Rows that go on from one prompt read its keys and values together: they are kept once, and one product serves all of
them (the shared prefixes of Hydragen: Juravsky et al. 2024, arXiv 2402.05099). Letters besides those of
`jaxalign.types`: n rows, of which n/b neighbours go on from each prompt, k KV heads, g query heads per KV head, h head
size.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalign.ops.attention.reference import MASKED, wide
from jaxalign.ops.softcap import softcap
from jaxalign.types import pytree


@pytree
class Behind:
    """Sight of the newest of the `said` tokens of each row: all of them, and the row's prompt."""

    key: Float[Array, "b k h p"]
    """of the prompts, which end in the last column"""
    value: Float[Array, "b k p h"]
    prompt: Int[Array, " b"]
    """tokens of each prompt"""
    said: Int[Array, ""]
    """tokens of each row behind it, the new one included"""

    def shown(self, columns: int, window: Int[Array, ""] | None) -> tuple[Bool[Array, "b p"], Bool[Array, " t"]]:
        """Which columns are seen, of the prompts' and of the rows' own `columns`."""
        before, behind = jnp.arange(self.key.shape[3]), jnp.arange(columns)
        far = self.said - 1 + self.key.shape[3] - before  # positions between the new token and each column's
        seen, own = before[None] >= self.key.shape[3] - self.prompt[:, None], behind < self.said
        if window is None:
            return seen, own
        return seen & (far < window)[None], own & (self.said - 1 - behind < window)


def continued(
    query: Float[Array, "n 1 k g h"],
    key: Float[Array, "n k h t"],
    value: Float[Array, "n k t h"],
    sight: Behind,
    window: Int[Array, ""] | None,
    scalar: float,
    cap: float | None,
) -> Float[Array, "n 1 k g h"]:
    """softmax(softcap(q·kᵀ / sqrt(scalar))) · v over the prompt and the row's own `key` and `value`."""
    n, _, k, g, _ = query.shape
    b, p = sight.prompt.shape[0], sight.key.shape[3]
    samples = n // b
    seen, own = sight.shown(key.shape[3], window)

    def together(x: Float[Array, "n k g c"]) -> Float[Array, "b k q c"]:
        return x.reshape(b, samples, k, g, -1).swapaxes(1, 2).reshape(b, k, samples * g, -1)

    def apart(x: Float[Array, "b k q c"]) -> Float[Array, "n k g c"]:
        return x.reshape(b, k, samples, g, -1).swapaxes(1, 2).reshape(n, k, g, -1)

    # Queries stand left and are not moved in any product: with the cache on the left, as einsum would have it to give
    # the axes in another order, XLA's CPU compiler multiplies matrices of g columns, at a quarter of the speed.
    rows = query[:, 0]
    of_prompt = jnp.where(seen[:, None, None], _scores(together(rows), sight.key, scalar, cap), MASKED)
    of_own = jnp.where(own[None, None, None], _scores(rows, key, scalar, cap), MASKED)
    share = jax.nn.softmax(jnp.concatenate([apart(of_prompt), of_own], axis=-1), axis=-1).astype(value.dtype)
    found = wide("bkqp,bkph->bkqh", together(share[..., :p]), sight.value)
    return (apart(found) + wide("nkgt,nkth->nkgh", share[..., p:], value)).astype(query.dtype)[:, None]


def _scores(query: Array, key: Array, scalar: float, cap: float | None) -> Float[Array, "n k q c"]:
    return softcap(wide("nkqh,nkhc->nkqc", query, key) / math.sqrt(scalar), cap)
