"""The op without [n v]: one pass forward, at most one backward, and the gradients by hand.

    dz_v = g ([v = y] − p_v) + …        dH_n = Σ_v dz_v W_v        dW_v = Σ_n dz_v h_n

For the log-prob the forward pass of a differentiated call also keeps the mean row under p over v ≠ y, R, after which
dH = g (1 − p_y) (W_y − R) needs no second pass: 4·n·d·v operations forward, 4·n·d·v for dW, and with a frozen head
none. The entropy and log Σ p² have gradients too, through a pass that makes the logits again.

Over a sharded vocabulary (`axis`) the same code runs on each shard; only [n] and [n d] sums travel. Where the columns
of the head are stored apart too (`columns`), pieces of its rows are gathered in turn, so that no device ever holds it
whole, and their gradients are scattered as they are made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.portable import target_logits
from jaxalign.ops.linear_logp.problem import Engine, Gradients, Pull, Shard, Wants
from jaxalign.ops.linear_logp.stats import LinearStats, Partial, Tail, Want, combine, finish, merge, nothing
from jaxalign.types import pytree


@dataclass(frozen=True)
class Task:
    """What stays the same between calls."""

    engine: Engine
    logits: Logits
    outputs: tuple[str, ...]
    vocabulary: int | None = None
    """rows of the head that are tokens, where it has more"""
    axis: str | None = None
    """mesh axis the vocabulary is sharded over, inside `shard_map`"""
    columns: tuple[str, ...] = ()
    """mesh axes the head's columns are sharded over, inside `shard_map`"""
    pieces: int = 1
    """pieces of this shard's rows that are gathered in turn"""

    @property
    def keeps_row(self) -> bool:
        """Whether dH follows from the mean row: not for the entropy and log Σ p², which weigh the rows otherwise."""
        return self.engine.keeps_row and not {"entropy", "log_sum_p2"} & set(self.outputs)


@pytree
class Kept:
    """From the forward pass to the backward one; `row` is this shard's part of the mean row, where it is needed.

    Between the passes on a mesh it has a leading axis, the shards.
    """

    tail: Tail
    stats: LinearStats
    row: Float[Array, "*shards n d"] | None
    tiles: Float[Array, "chunks n c"] | None = None


Carry = TypeVar("Carry")


def _sweep(
    task: Task,
    primals: tuple[Array, Array, Array | None, Array],
    start: Carry,
    visit: Callable[[Carry, Shard], tuple[Carry, Any]],
) -> tuple[Carry, Any]:
    """Folds `visit` over the pieces of this device's rows, targets counted from the first row of each.

    What it gives besides is for rows of the head, and comes back as such.
    """
    hidden, head, bias, targets = primals
    held = head.shape[0]
    first = jnp.int32(0) if task.axis is None else jax.lax.axis_index(task.axis) * held
    limit = None if task.vocabulary is None else jnp.int32(task.vocabulary) - first
    # an ignored target stays negative in every shard
    local = jnp.where(targets >= 0, targets.astype(jnp.int32) - first, -1)

    def shard(head: Array, bias: Array | None, local: Array, limit: Array | None) -> Shard:
        if task.columns:
            head = jax.lax.all_gather(head, task.columns, axis=1, tiled=True)
        return Shard(hidden, head, bias, local, limit)

    if task.pieces == 1:
        return visit(start, shard(head, bias, local, limit))
    rows = -(-held // task.pieces)
    # rows that fill the last piece up are no tokens, and certainly not those of the next shard
    local = jnp.where(local < held, local, -1)
    limit = jnp.int32(held) if limit is None else jnp.minimum(limit, held)

    def apart(array: Array) -> Array:
        filled = jnp.pad(array, ((0, task.pieces * rows - held), *((0, 0),) * (array.ndim - 1)))
        return filled.reshape(task.pieces, rows, *array.shape[1:])

    def each(carry: Carry, piece: tuple[Array, Array | None, Array]) -> tuple[Carry, Any]:
        head, bias, begin = piece
        return visit(carry, shard(head, bias, jnp.where(local >= begin, local - begin, -1), limit - begin))

    begins = jnp.arange(task.pieces, dtype=jnp.int32) * rows
    pieces = (apart(head), None if bias is None else apart(bias), begins)
    carry, made = jax.lax.scan(each, start, pieces)
    return carry, jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:held], made)


def forward(
    task: Task,
    hidden: Float[Array, "n d"],
    head: Float[Array, "v stored"],
    bias: Float[Array, " v"] | None,
    targets: Int[Array, " n"],
    wants: Wants | None = None,
) -> tuple[LinearStats, Kept]:
    """Statistics, and what the backward pass needs for the gradients it `wants`."""
    row, tiles = (wants.hidden and task.keeps_row, wants.head) if wants else (False, False)
    want = Want("entropy" in task.outputs, "log_sum_p2" in task.outputs, row, tiles)

    def visit(before: tuple[Partial, Array] | None, shard: Shard) -> tuple[tuple[Partial, Array], None]:
        part, target = task.engine.forward(shard, task.logits, want), target_logits(shard, task.logits)
        return ((part, target) if before is None else (merge(before[0], part), before[1] + target)), None

    start = (nothing(hidden, want), jnp.zeros(hidden.shape[0], jnp.float32)) if task.pieces > 1 else None
    swept, _ = _sweep(task, (hidden, head, bias, targets), start, visit)
    assert swept is not None
    part, target, rows = combine(swept[0], task.axis), swept[1], head.shape[0]
    if task.axis is not None:
        target, rows = jax.lax.psum(target, task.axis), rows * jax.lax.axis_size(task.axis)
    # a target beyond the vocabulary is a mistake that must show
    target = jnp.where(targets < (task.vocabulary or rows), target, jnp.nan)
    stats, tail = finish(part, target, task.outputs, targets >= 0)
    return stats, Kept(tail, stats, None if part.row is None else part.row.astype(hidden.dtype), part.tiles)


def _pull(kept: Kept, cotangent: LinearStats, live: Bool[Array, " n"]) -> Pull:
    """Gradient of the logits from the gradients of the statistics."""

    def of(name: str) -> Array | None:
        value = getattr(cotangent, name)
        return None if value is None else jnp.where(live, value, 0.0)

    tail, stats = kept.tail, kept.stats
    zero = jnp.zeros_like(tail.lse)
    g, g_lse = of("logp"), of("lse")
    g, g_lse = zero if g is None else g, zero if g_lse is None else g_lse
    target, others = g * tail.q + g_lse * tail.p, g_lse - g
    log_p = p = None
    if (of_entropy := of("entropy")) is not None:
        assert stats.entropy is not None
        target -= of_entropy * tail.p * (tail.z - tail.lse + stats.entropy)
        others -= of_entropy * stats.entropy
        log_p = -of_entropy
    if (of_square := of("log_sum_p2")) is not None:
        assert stats.log_sum_p2 is not None
        p = 2.0 * of_square * jnp.exp(-stats.log_sum_p2)
        target += tail.p * (tail.p * p - 2.0 * of_square)
        others -= 2.0 * of_square
    return Pull(tail.lse, target, others, log_p, p, kept.tiles)


def _own_rows(task: Task, shard: Shard, kept: Kept, pull: Pull) -> Float[Array, "n d"]:
    """The part of dH, fp32, that the target's own row has, where it is in this shard."""
    inside = shard.holds(shard.targets)
    own = shard.head[jnp.where(inside, shard.targets, 0)].astype(jnp.float32)
    weight = jnp.where(inside, task.logits.times_slope(kept.tail.z, pull.target), 0.0)
    return weight[:, None] * own


def backward(
    task: Task,
    wants: Wants,
    primals: tuple[Array, Array, Array | None, Array],
    kept: Kept,
    cotangent: LinearStats,
) -> Gradients:
    """Gradients of hidden (complete), head and bias (this shard's rows, this device's tokens), in their dtypes."""
    hidden, _, _, targets = primals
    pull = _pull(kept, cotangent, targets >= 0)
    recompute = Wants(wants.hidden and kept.row is None, wants.head, wants.bias)

    def visit(of_hidden: Array | None, shard: Shard) -> tuple[Array | None, tuple[Array | None, Array | None]]:
        made: Gradients = (None, None, None)
        if recompute.hidden or recompute.head or recompute.bias:
            made = task.engine.backward(shard, task.logits, pull, recompute)
        part, of_head, of_bias = made
        if wants.hidden and of_hidden is not None:
            of_hidden += _own_rows(task, shard, kept, pull) if part is None else part
        if of_head is not None and task.columns:
            of_head = jax.lax.psum_scatter(of_head, task.columns, scatter_dimension=1, tiled=True)
        return of_hidden, (of_head, of_bias)

    of_hidden = None
    if wants.hidden:
        others = 0.0 if kept.row is None else (pull.others * kept.tail.q)[:, None] * kept.row.astype(jnp.float32)
        of_hidden = jnp.broadcast_to(others, hidden.shape).astype(jnp.float32)
    of_hidden, (of_head, of_bias) = _sweep(task, primals, of_hidden, visit)
    if of_hidden is not None:
        if task.axis is not None:
            of_hidden = jax.lax.psum(of_hidden, task.axis)
        of_hidden = of_hidden.astype(hidden.dtype)
    return of_hidden, of_head, of_bias
