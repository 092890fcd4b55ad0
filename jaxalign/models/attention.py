"""Grouped-query attention, with what families add to it: biases, norms of queries and keys, soft-capped scores.

Letters besides those of `jaxalign.types`: k KV heads, g query heads per KV head, h head size. Softmax is fp32.

GQA: Ainslie et al. 2023 (2305.13245). Norms of queries and keys: Henry et al. 2020 (2010.04245), here RMSNorms over
each head. Soft-caps: Gemma 2 (2408.00118) §2.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxalign.models.layers import RMSNorm, parameter, softcap
from jaxalign.models.rope import Angles, rotate

MASKED = -1e30
"""Score of what may not be seen: finite, so that a row that sees nothing (padding) averages instead of dividing 0/0."""

KeyValue = tuple[Float[Array, "n k h c"], Float[Array, "n k c h"]]
"""Keys lie with the columns last, so that both products of attention run along rows of memory."""


class Attention(nnx.Module):
    """Query head i reads KV head i // g. `norm` builds the norms of queries and keys over a head, where there are any.

    Scores are divided by sqrt(`scalar`), then capped at ±`cap`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scalar: float,
        cap: float | None = None,
        biased: bool = False,
        norm: Callable[[int, str], RMSNorm] | None = None,
    ):
        self.kv_heads, self.scalar, self.cap = kv_heads, scalar, cap
        self.q = parameter((width, heads, head_dim), ("embed", "heads", "head"))
        self.k = parameter((width, kv_heads, head_dim), ("embed", "kv_heads", "head"))
        self.v = parameter((width, kv_heads, head_dim), ("embed", "kv_heads", "head"))
        self.o = parameter((heads, head_dim, width), ("heads", "head", "embed"))
        self.q_bias = parameter((heads, head_dim), ("heads", "head")) if biased else None
        self.k_bias = parameter((kv_heads, head_dim), ("kv_heads", "head")) if biased else None
        self.v_bias = parameter((kv_heads, head_dim), ("kv_heads", "head")) if biased else None
        self.q_norm = norm(head_dim, "head") if norm else None
        self.k_norm = norm(head_dim, "head") if norm else None

    def read(self, x: Float[Array, "n s d"], turn: Angles | None) -> tuple[Float[Array, "n s heads h"], KeyValue]:
        """Rotated queries, and rotated keys and values in the layout of a cache. None rotates nothing."""
        query, key = project(x, self.q, self.q_bias), project(x, self.k, self.k_bias)
        value = project(x, self.v, self.v_bias)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        return query, (key.transpose(0, 2, 3, 1), value.swapaxes(1, 2))

    def write(
        self, query: Float[Array, "n s heads h"], memory: KeyValue, mask: Bool[Array, "n s c"]
    ) -> Float[Array, "n s d"]:
        """What the queries find in `memory`, projected back to the model's width."""
        n, s, heads, h = query.shape
        grouped = query.reshape(n, s, self.kv_heads, heads // self.kv_heads, h)
        found = attend(grouped, memory, mask, self.scalar, self.cap).reshape(n, s, heads, h)
        return jnp.einsum("nskh,khd->nsd", found, self.o[...].astype(found.dtype))


def project(x: Float[Array, "n s d"], kernel: nnx.Param, bias: nnx.Param | None) -> Float[Array, "n s k h"]:
    """x · kernel + bias, a head on an axis of its own."""
    found = jnp.einsum("nsd,dkh->nskh", x, kernel[...].astype(x.dtype))
    return found if bias is None else found + bias[...].astype(x.dtype)[None, None]


def attend(
    query: Float[Array, "n s k g h"],
    memory: KeyValue,
    mask: Bool[Array, "n s c"],
    scalar: float,
    cap: float | None,
) -> Float[Array, "n s k g h"]:
    """softmax(softcap(q·kᵀ / sqrt(scalar))) · v over the columns that `mask` shows."""
    key, value = memory
    scores = softcap(match(query, key) / math.sqrt(scalar), cap)
    scores = jnp.where(mask[:, None, None], scores, MASKED)
    share = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("nkgsc,nkch->nskgh", share, value)


def match(query: Float[Array, "n s k g h"], key: Float[Array, "n k h c"]) -> Float[Array, "n k g s c"]:
    """q·k, accumulated in fp32. XLA has no such product of bf16 for the CPU, so there the operands are widened."""

    def product(q: Array, k: Array) -> Array:
        return jnp.einsum("nskgh,nkhc->nkgsc", q, k, preferred_element_type=jnp.float32)

    def widened(q: Array, k: Array) -> Array:
        return product(q.astype(jnp.float32), k.astype(jnp.float32))

    if query.dtype == jnp.float32:
        return product(query, key)
    return jax.lax.platform_dependent(query, key, cpu=widened, default=product)
