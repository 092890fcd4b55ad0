"""The pass over the vocabulary in plain XLA, a chunk of the head's rows at a time; no buffer of n·v elements.

Each chunk's logits [n c] live only inside the loop, and the backward pass makes them again. Where memory allows, the
last chunks' are kept for it instead, as many as `keep` bytes hold (none unless asked): a product less for each. The
head's gradient is written a chunk at a time, once, which is why the vocabulary is chunked and not the tokens: chunks of
tokens would read and write all of it for each chunk.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.problem import Engine, Gradients, Pull, Shard, Wants
from jaxalign.ops.linear_logp.stats import MASKED, NEGATIVE, Partial, Want

Sums = tuple[Array, ...]
Start = Array | int


def _dot(contract: str, left: Array, right: Array) -> Float[Array, "..."]:
    """Product accumulated in fp32. fp32 inputs ask for full precision, which TPU and GPU would not give by default."""
    precision = "highest" if left.dtype == jnp.float32 else "default"
    return jnp.einsum(contract, left, right, precision=precision, preferred_element_type=jnp.float32)


def _rows(array: Array, start: Start, count: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, start, count, axis=0)


def _tile(shard: Shard, logits: Logits, start: Start, count: int) -> Float[Array, "n c"]:
    """Logits of the rows from `start`, MASKED beyond the shard's limit."""
    rows = _rows(shard.head, start, count)
    scores = _dot("nd,cd->nc", shard.hidden, rows)
    if shard.bias is not None:
        scores += _rows(shard.bias, start, count).astype(jnp.float32)[None, :]
    z = logits(scores)
    if shard.limit is not None:
        z = jnp.where(_columns(count) < shard.limit - start, z, MASKED)
    return z


def _columns(count: int) -> Int[Array, "1 c"]:
    return jnp.arange(count, dtype=jnp.int32)[None, :]


def _hit(shard: Shard, start: Start, count: int) -> Bool[Array, "n c"]:
    """Where the targets are among the rows from `start`."""
    return _columns(count) == (shard.targets - start)[:, None]


def _over_chunks(
    v: int, chunk: int, step: Callable, carry: Sums, last: int = 0, of_last: Callable | None = None
) -> Any:
    """step(start, count, carry) for each whole chunk in a loop, then once for what is left.

    The `last` whole ones have a loop of their own, of of_last(index, start, carry).
    """
    whole = v // chunk
    others = whole - last
    if others:
        carry = jax.lax.fori_loop(0, others, lambda i, c: step(i * chunk, chunk, c), carry)
    if of_last is not None and last:
        carry = jax.lax.fori_loop(0, last, lambda i, c: of_last(i, (others + i) * chunk, c), carry)
    return step(whole * chunk, v - whole * chunk, carry) if v % chunk else carry


def forward(shard: Shard, logits: Logits, want: Want, chunk: int, keep: int = 0) -> Partial:
    """The sums over v ≠ y of one shard, online: the running maximum rescales what was summed before.

    With `want.tiles` as many logits as `keep` bytes hold, in whole chunks.
    """
    n, d = shard.hidden.shape
    v = shard.head.shape[0]

    def add(start: Start, z: Array, carry: Sums) -> Sums:
        m, mass, first, second, row, tiles = carry
        z = jnp.where(_hit(shard, start, z.shape[1]), MASKED, z)
        top = jnp.maximum(m, z.max(-1))
        gap = z - top[:, None]
        p, f = jnp.exp(gap), jnp.exp(m - top)
        if want.first:
            first = f * (first + (m - top) * mass) + (p * gap).sum(-1)
        if want.second:
            second = f * f * second + (p * p).sum(-1)
        if want.row:
            pull = logits.times_slope(z, p).astype(shard.head.dtype)
            row = f[:, None] * row + _dot("nc,cd->nd", pull, _rows(shard.head, start, z.shape[1]))
        return top, f * mass + p.sum(-1), first, second, row, tiles

    def step(start: Start, count: int, carry: Sums) -> Sums:
        return add(start, _tile(shard, logits, start, count), carry)

    def kept_step(i: Array, start: Array, carry: Sums) -> Sums:
        z = _tile(shard, logits, start, chunk)
        return add(start, z, (*carry[:-1], jax.lax.dynamic_update_index_in_dim(carry[-1], z, i, axis=0)))

    zeros = jnp.zeros(n, jnp.float32)
    row = jnp.zeros((n, d) if want.row else (0, d), jnp.float32)
    kept = min(v // chunk, keep // (4 * max(n, 1) * chunk)) if want.tiles else 0
    tiles = jnp.zeros((kept, n, chunk), jnp.float32)
    start = (jnp.full(n, NEGATIVE, jnp.float32), zeros, zeros, zeros, row, tiles)
    m, mass, first, second, row, tiles = _over_chunks(v, chunk, step, start, kept, kept_step)
    mean = row / jnp.maximum(mass, jnp.finfo(jnp.float32).tiny)[:, None] if want.row else None
    return Partial(
        m, mass, first if want.first else None, second if want.second else None, mean, tiles if kept else None
    )


def _score_gradient(shard: Shard, logits: Logits, pull: Pull, start: Start, z: Array) -> Float[Array, "n c"]:
    log_p = z - pull.lse[:, None]
    p = jnp.exp(log_p)
    weight = pull.others[:, None]
    if pull.log_p is not None:
        weight = weight + pull.log_p[:, None] * log_p
    if pull.p is not None:
        weight = weight + pull.p[:, None] * p
    gradient = jnp.where(_hit(shard, start, z.shape[1]), pull.target[:, None], weight * p)
    return logits.times_slope(z, gradient)


def backward(shard: Shard, logits: Logits, pull: Pull, wants: Wants, chunk: int) -> Gradients:
    """The wanted gradients of hidden, head and bias of this shard; hidden's is fp32, this shard's part of the sum."""
    (n, d), v = shard.hidden.shape, shard.head.shape[0]

    def add(start: Start, z: Array, carry: Sums) -> Sums:
        hidden, head, bias = carry
        s, rows = _score_gradient(shard, logits, pull, start, z), _rows(shard.head, start, z.shape[1])
        narrow = s.astype(rows.dtype)
        if wants.hidden:
            hidden += _dot("nc,cd->nd", narrow, rows)
        if wants.head:
            made = _dot("nc,nd->cd", narrow, shard.hidden).astype(head.dtype)
            head = jax.lax.dynamic_update_slice_in_dim(head, made, start, axis=0)
        if wants.bias:
            bias = jax.lax.dynamic_update_slice_in_dim(bias, s.sum(0).astype(bias.dtype), start, axis=0)
        return hidden, head, bias

    def step(start: Start, count: int, carry: Sums) -> Sums:
        return add(start, _tile(shard, logits, start, count), carry)

    def kept_step(i: Array, start: Array, carry: Sums) -> Sums:
        assert pull.tiles is not None
        return add(start, jax.lax.dynamic_index_in_dim(pull.tiles, i, axis=0, keepdims=False), carry)

    hidden = jnp.zeros((n, d) if wants.hidden else (0, d), jnp.float32)
    head = jnp.zeros((v, d) if wants.head else (0, d), shard.head.dtype)
    kind = jnp.float32 if shard.bias is None else shard.bias.dtype
    bias = jnp.zeros(v if wants.bias else 0, kind)
    kept = 0 if pull.tiles is None else pull.tiles.shape[0]
    hidden, head, bias = _over_chunks(v, chunk, step, (hidden, head, bias), kept, kept_step)
    return hidden if wants.hidden else None, head if wants.head else None, bias if wants.bias else None


def target_logits(shard: Shard, logits: Logits, tokens: int = 1024) -> Float[Array, " n"]:
    """z_y (nats) from the target's own row, 0 where it is in another shard; gathers the rows of `tokens` at a time."""

    def step(start: Start, count: int, carry: Sums) -> Sums:
        targets = _rows(shard.targets, start, count)
        inside = shard.holds(targets)
        local = jnp.where(inside, targets, 0)
        score = _dot("nd,nd->n", _rows(shard.hidden, start, count), shard.head[local])
        if shard.bias is not None:
            score += shard.bias[local].astype(jnp.float32)
        z = jnp.where(inside, logits(score), 0.0)
        return (jax.lax.dynamic_update_slice_in_dim(carry[0], z, start, axis=0),)

    n = shard.hidden.shape[0]
    return _over_chunks(n, tokens, step, (jnp.zeros(n, jnp.float32),))[0]


@lru_cache
def engine(chunk: int, keep: int = 0) -> Engine:
    """The pass over `chunk` rows of the head at a time, which keeps `keep` bytes of logits where they are wanted."""
    return Engine("chunked", partial(forward, chunk=chunk, keep=keep), partial(backward, chunk=chunk))
