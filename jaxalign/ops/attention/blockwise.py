"""Attention without [s s]: a block of queries at a time, and the gradients by hand.

    forward    o = softmax(z) v,  lse = log Σ e^z                    per block of queries
    backward   p = e^(z − lse),  dv += pᵀ do,  dz = p ∘ (do vᵀ − Σ o ∘ do),  dq = dz k,  dk += dzᵀ q

as in FlashAttention-2 (Dao 2023, arXiv 2307.08691), in plain XLA: scores of one block exist at a time, forward and
backward, and sums over blocks are fp32. Where a row's queries are all here, a block looks only at the keys up to its
own last column, for nothing further right is ever seen: half of the work.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalign.ops.attention.reference import MASKED, match, wide
from jaxalign.ops.attention.sight import Tree
from jaxalign.ops.softcap import softcap

Operands = tuple[Array, Array, Array]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def blockwise(
    block: int,
    causal: bool,
    scalar: float,
    cap: float | None,
    operands: Operands,
    ids: tuple[Tree, Tree],
    window: Int[Array, ""] | None,
) -> Float[Array, "n q k g h"]:
    """As `reference.dense` of operands (query, key, value), where `ids` are of the queries and of the keys; padding
    gets zeros. `causal`: queries and keys are the same columns."""
    return _forward(block, causal, scalar, cap, operands, ids, window)[0]


def _spans(block: int, causal: bool, queries: int, keys: int) -> list[tuple[slice, slice]]:
    """Columns of each block of queries, and of the keys that it may see."""
    # a row is written trunk first and branches after it, so nothing that a token sees stands right of it; where the
    # queries are a piece of a row, their columns are not the keys' and all keys are looked at
    starts = range(0, queries, block)
    ends = [min(start + block, queries) for start in starts]
    return [(slice(start, end), slice(0, end if causal else keys)) for start, end in zip(starts, ends, strict=True)]


def _scores(
    query: Array, key: Array, seen: Bool[Array, "n q c"], scalar: float, cap: float | None
) -> Float[Array, "n k g q c"]:
    scores = softcap(match(query, key) / math.sqrt(scalar), cap)
    return jnp.where(seen[:, None, None], scores, MASKED)


def _seen(ids: tuple[Tree, Tree], rows: slice, columns: slice, window: Any) -> Bool[Array, "n q c"]:
    mine, theirs = (
        jax.tree.map(lambda a, at=at: a[:, at], each) for each, at in zip(ids, (rows, columns), strict=True)
    )
    return mine.of(theirs, window)


def _forward(
    block: int, causal: bool, scalar: float, cap: float | None, operands: Operands, ids: Any, window: Any
) -> tuple[Array, Any]:
    query, key, value = operands
    made, sums = [], []
    # unrolled and no scan: each block looks at another number of keys
    for rows, columns in _spans(block, causal, query.shape[1], key.shape[3]):
        seen = _seen(ids, rows, columns, window)
        scores = _scores(query[:, rows], key[..., columns], seen, scalar, cap)
        lse = jax.nn.logsumexp(scores, axis=-1)
        # MASKED is finite, so a query that sees nothing has equal shares of everything: they are made 0
        share = jnp.where(seen[:, None, None], jnp.exp(scores - lse[..., None]), 0.0).astype(value.dtype)
        made.append(wide("nkgsc,nkch->nskgh", share, value[:, :, columns]).astype(query.dtype))
        sums.append(lse)
    out = jnp.concatenate(made, axis=1)
    return out, (operands, ids, window, out, jnp.concatenate(sums, axis=-1))


def _backward(
    block: int, causal: bool, scalar: float, cap: float | None, residuals: Any, of_out: Array
) -> tuple[Any, None, None]:
    (query, key, value), ids, window, out, lse = residuals
    # Σ_c p_c (do · v_c) = o · do: what the softmax subtracts from every score's gradient, without another [q c]
    shared = jnp.einsum("nskgh,nskgh->nkgs", out.astype(jnp.float32), of_out.astype(jnp.float32))
    of_key, of_value = jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32)
    of_query = []
    for rows, columns in _spans(block, causal, query.shape[1], key.shape[3]):
        seen = _seen(ids, rows, columns, window)
        q, k, v, do = query[:, rows], key[..., columns], value[:, :, columns], of_out[:, rows]
        scores = _scores(q, k, seen, scalar, cap)
        p = jnp.where(seen[:, None, None], jnp.exp(scores - lse[..., rows][..., None]), 0.0)
        # queries of a group (g) share their key and value: the products below sum over them
        of_value = of_value.at[:, :, columns].add(wide("nkgsc,nskgh->nkch", p.astype(do.dtype), do))
        of_scores = p * (wide("nskgh,nkch->nkgsc", do, v) - shared[..., rows][..., None])
        if cap is not None:
            # d softcap(x) / dx = 1 − (softcap(x) / cap)², which of MASKED overflows: p is 0 there, and 0 · ∞ is NaN
            of_scores *= jnp.where(seen[:, None, None], 1.0 - jnp.square(scores / cap), 0.0)
        # rounded to the dtype of the products, as the shares are forward; the sums stay fp32
        of_scores = (of_scores / math.sqrt(scalar)).astype(q.dtype)
        of_query.append(wide("nkgsc,nkhc->nskgh", of_scores, k).astype(q.dtype))
        of_key = of_key.at[..., columns].add(wide("nkgsc,nskgh->nkhc", of_scores, q))
    gradients = jnp.concatenate(of_query, axis=1), of_key.astype(key.dtype), of_value.astype(value.dtype)
    return gradients, None, None


blockwise.defvjp(_forward, _backward)
