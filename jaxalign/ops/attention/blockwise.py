"""Attention without [s s] in plain XLA: a block of queries at a time, and the gradients by hand.

    forward    o = softmax(z) v,  lse = log Σ e^z                    per block of queries
    backward   p = e^(z − lse),  dv += pᵀ do,  dz = p ∘ (do vᵀ − Σ o ∘ do),  dq = dz k,  dk += dzᵀ q

as in FlashAttention-2 (Dao 2023, arXiv 2307.08691): scores of one block exist at a time, forward and backward, and
sums over blocks are fp32. Where a row's queries are all here, a block looks only at the keys up to its own last column,
for nothing further right is ever seen: half of the work.
"""

import math
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxalign.ops.attention.engine import Engine, Gradients
from jaxalign.ops.attention.problem import Problem, Scores
from jaxalign.ops.attention.reference import MASKED, match, wide
from jaxalign.ops.softcap import softcap


def _spans(problem: Problem, scores: Scores, block: int) -> list[tuple[slice, slice]]:
    """Columns of each block of queries, and of the keys that it may see."""
    # a row is written trunk first and branches after it, so nothing that a token sees stands right of it; where the
    # queries are a piece of a row, their columns are not the keys' and all keys are looked at
    queries, keys = problem.query.shape[1], problem.key.shape[3]
    starts = range(0, queries, block)
    ends = [min(start + block, queries) for start in starts]
    return [
        (slice(start, end), slice(0, end if scores.causal else keys)) for start, end in zip(starts, ends, strict=True)
    ]


def _scores(query: Array, key: Array, seen: Bool[Array, "n q c"], scores: Scores) -> Float[Array, "n k g q c"]:
    made = softcap(match(query, key) / math.sqrt(scores.scalar), scores.cap)
    return jnp.where(seen[:, None, None], made, MASKED)


def _seen(problem: Problem, rows: slice, columns: slice) -> Bool[Array, "n q c"]:
    mine, theirs = (
        jax.tree.map(lambda a, at=at: a[:, at], each) for each, at in ((problem.mine, rows), (problem.theirs, columns))
    )
    return mine.of(theirs, problem.window)


def forward(problem: Problem, scores: Scores, block: int) -> tuple[Float[Array, "n q k g h"], Float[Array, "n k g q"]]:
    """What the queries find, and the log-sum-exp of each one's scores."""
    query, key, value = problem.query, problem.key, problem.value
    made, sums = [], []
    # unrolled and no scan: each block looks at another number of keys
    for rows, columns in _spans(problem, scores, block):
        seen = _seen(problem, rows, columns)
        z = _scores(query[:, rows], key[..., columns], seen, scores)
        lse = jax.nn.logsumexp(z, axis=-1)
        # MASKED is finite, so a query that sees nothing has equal shares of everything: they are made 0
        share = jnp.where(seen[:, None, None], jnp.exp(z - lse[..., None]), 0.0).astype(value.dtype)
        made.append(wide("nkgsc,nkch->nskgh", share, value[:, :, columns]).astype(query.dtype))
        sums.append(lse)
    return jnp.concatenate(made, axis=1), jnp.concatenate(sums, axis=-1)


def backward(problem: Problem, scores: Scores, found: Array, lse: Array, of_found: Array, block: int) -> Gradients:
    """Gradients of query, key and value."""
    query, key, value = problem.query, problem.key, problem.value
    # Σ_c p_c (do · v_c) = o · do: what the softmax subtracts from every score's gradient, without another [q c]
    shared = jnp.einsum("nskgh,nskgh->nkgs", found.astype(jnp.float32), of_found.astype(jnp.float32))
    of_key, of_value = jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32)
    of_query = []
    for rows, columns in _spans(problem, scores, block):
        seen = _seen(problem, rows, columns)
        q, k, v, do = query[:, rows], key[..., columns], value[:, :, columns], of_found[:, rows]
        z = _scores(q, k, seen, scores)
        p = jnp.where(seen[:, None, None], jnp.exp(z - lse[..., rows][..., None]), 0.0)
        # queries of a group (g) share their key and value: the products below sum over them
        of_value = of_value.at[:, :, columns].add(wide("nkgsc,nskgh->nkch", p.astype(do.dtype), do))
        of_scores = p * (wide("nskgh,nkch->nkgsc", do, v) - shared[..., rows][..., None])
        if scores.cap is not None:
            # d softcap(x) / dx = 1 − (softcap(x) / cap)², which of MASKED overflows: p is 0 there, and 0 · ∞ is NaN
            of_scores *= jnp.where(seen[:, None, None], 1.0 - jnp.square(z / scores.cap), 0.0)
        # rounded to the dtype of the products, as the shares are forward; the sums stay fp32
        of_scores = (of_scores / math.sqrt(scores.scalar)).astype(q.dtype)
        of_query.append(wide("nkgsc,nkhc->nskgh", of_scores, k).astype(q.dtype))
        of_key = of_key.at[..., columns].add(wide("nkgsc,nskgh->nkhc", of_scores, q))
    return jnp.concatenate(of_query, axis=1), of_key.astype(key.dtype), of_value.astype(value.dtype)


@lru_cache
def engine(block: int) -> Engine:
    """Blocks of so many queries."""
    return Engine("blockwise", partial(forward, block=block), partial(backward, block=block))
