"""The op without [n v]: one pass forward, at most one backward, and the gradients by hand.

    dz_v = g ([v = y] − p_v) + …        dH_n = Σ_v dz_v W_v        dW_v = Σ_n dz_v h_n

For the log-prob the forward pass of a differentiated call also keeps the mean row under p over v ≠ y, R, after which
dH = g (1 − p_y) (W_y − R) needs no second pass: 4·n·d·v operations forward, 4·n·d·v for dW, and with a frozen head
none. The entropy and log Σ p² have gradients too, through a pass that makes the logits again.

Over a sharded vocabulary (`axis`) the same code runs on each shard; only [n] and [n d] sums travel.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.portable import target_logits
from jaxalign.ops.linear_logp.problem import Engine, Gradients, Pull, Shard, Wants
from jaxalign.ops.linear_logp.stats import LinearStats, Tail, Want, combine, finish
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


def _shard(task: Task, hidden: Array, head: Array, bias: Array | None, targets: Array) -> Shard:
    """This device's rows, with targets counted from the first of them."""
    first = jnp.int32(0) if task.axis is None else jax.lax.axis_index(task.axis) * head.shape[0]
    limit = None if task.vocabulary is None else jnp.int32(task.vocabulary) - first
    # an ignored target stays negative in every shard
    local = jnp.where(targets >= 0, targets.astype(jnp.int32) - first, -1)
    return Shard(hidden, head, bias, local, limit)


def forward(
    task: Task,
    hidden: Float[Array, "n d"],
    head: Float[Array, "v d"],
    bias: Float[Array, " v"] | None,
    targets: Int[Array, " n"],
    wants: Wants | None = None,
) -> tuple[LinearStats, Kept]:
    """Statistics, and what the backward pass needs for the gradients it `wants`."""
    shard = _shard(task, hidden, head, bias, targets)
    row, tiles = (wants.hidden and task.keeps_row, wants.head) if wants else (False, False)
    want = Want("entropy" in task.outputs, "log_sum_p2" in task.outputs, row, tiles)
    part = combine(task.engine.forward(shard, task.logits, want), task.axis)
    target, rows = target_logits(shard, task.logits), head.shape[0]
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


def _hidden_from_row(task: Task, shard: Shard, kept: Kept, pull: Pull) -> Float[Array, "n d"]:
    """dH of this shard, fp32: the target's own row and the mean of the others."""
    assert kept.row is not None
    inside = shard.holds(shard.targets)
    own = shard.head[jnp.where(inside, shard.targets, 0)].astype(jnp.float32)
    weight = jnp.where(inside, task.logits.times_slope(kept.tail.z, pull.target), 0.0)
    others = pull.others * kept.tail.q
    return weight[:, None] * own + others[:, None] * kept.row.astype(jnp.float32)


def backward(
    task: Task,
    wants: Wants,
    primals: tuple[Array, Array, Array | None, Array],
    kept: Kept,
    cotangent: LinearStats,
) -> Gradients:
    """Gradients of hidden (complete), head and bias (this shard's rows, this device's tokens), in their dtypes."""
    hidden, _, _, targets = primals
    shard, pull = _shard(task, *primals), _pull(kept, cotangent, targets >= 0)
    recompute = Wants(wants.hidden and kept.row is None, wants.head, wants.bias)
    made: Gradients = (None, None, None)
    if recompute.hidden or recompute.head or recompute.bias:
        made = task.engine.backward(shard, task.logits, pull, recompute)
    of_hidden, of_head, of_bias = made
    if wants.hidden:
        of_hidden = _hidden_from_row(task, shard, kept, pull) if of_hidden is None else of_hidden
        if task.axis is not None:
            of_hidden = jax.lax.psum(of_hidden, task.axis)
        of_hidden = of_hidden.astype(hidden.dtype)
    return of_hidden, of_head, of_bias
