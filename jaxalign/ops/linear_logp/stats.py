"""What one pass over the vocabulary yields for a token, and how the passes of several shards combine.

A pass leaves the target out: its sums run over v ≠ y only, relative to their own maximum m. That keeps 1 − p_y and the
gradient accurate when p_y is close to 1, where sums that include the target cancel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxalign.types import pytree

OUTPUTS = ("logp", "lse", "entropy", "log_sum_p2", "match")

NEGATIVE = -1e30
"""Where running maxima start: finite, so that the difference of two of them is 0 and not NaN."""

MASKED = 2 * NEGATIVE
"""Logit of an entry that does not count: exp(MASKED − NEGATIVE) is 0 as well."""


@pytree
class LinearStats:
    """Per-token statistics of p = softmax(z), fp32; `None` where not asked for.

    `logp` = z_y − lse (nats), `lse` = log Σ_v exp z_v, `entropy` = −Σ p log p (nats), `log_sum_p2` = log Σ p²,
    `match`: no other token has a logit above the target's.
    """

    logp: Float[Array, " n"] | None = None
    lse: Float[Array, " n"] | None = None
    entropy: Float[Array, " n"] | None = None
    log_sum_p2: Float[Array, " n"] | None = None
    match: Bool[Array, " n"] | None = None


@dataclass(frozen=True)
class Want:
    """Which sums a pass makes beyond m and l; each costs arithmetic on every logit, `row` another matrix product."""

    first: bool = False
    second: bool = False
    row: bool = False
    tiles: bool = False
    """logits for the backward pass, as many as the implementation keeps"""


@pytree
class Partial:
    """Sums over the v ≠ y of one shard, relative to the token's maximum `m` over them; None where not wanted."""

    m: Float[Array, " n"]
    mass: Float[Array, " n"]
    """Σ e^(z−m)"""
    first: Float[Array, " n"] | None
    """Σ e^(z−m) (z−m), for the entropy"""
    second: Float[Array, " n"] | None
    """Σ e^(2(z−m)), for log Σ p²"""
    row: Float[Array, "n d"] | None
    """Σ e^(z−m) dz/dscore W_v / mass: the mean row, for the gradient of the hidden states"""
    tiles: Float[Array, "chunks n c"] | None = None
    """logits of the last whole chunks of the vocabulary, which the backward pass need not make again"""


def nothing(hidden: Float[Array, "n d"], want: Want) -> Partial:
    """Sums over no rows at all."""
    zero = jnp.zeros(hidden.shape[0], jnp.float32)
    return Partial(
        m=jnp.full(hidden.shape[0], NEGATIVE, jnp.float32),
        mass=zero,
        first=zero if want.first else None,
        second=zero if want.second else None,
        row=jnp.zeros(hidden.shape, jnp.float32) if want.row else None,
    )


def merge(one: Partial, two: Partial) -> Partial:
    """Sums over the rows of both."""
    m = jnp.maximum(one.m, two.m)
    parts = (one, two)
    gaps = [part.m - m for part in parts]
    scales = [jnp.exp(gap) for gap in gaps]
    masses = [f * part.mass for f, part in zip(scales, parts, strict=True)]
    mass = masses[0] + masses[1]
    first = second = row = None
    if one.first is not None and two.first is not None:
        first = scales[0] * one.first + gaps[0] * masses[0] + scales[1] * two.first + gaps[1] * masses[1]
    if one.second is not None and two.second is not None:
        second = scales[0] ** 2 * one.second + scales[1] ** 2 * two.second
    if one.row is not None and two.row is not None:
        total = jnp.maximum(mass, jnp.finfo(jnp.float32).tiny)
        shares = [(own / total)[:, None] for own in masses]
        row = shares[0] * one.row.astype(jnp.float32) + shares[1] * two.row.astype(jnp.float32)
    return Partial(m, mass, first, second, row)


def combine(partial: Partial, axis: str | None) -> Partial:
    """Sums over all shards of the vocabulary along a mesh axis: a pmax and psums of [n].

    `row` stays this shard's part of the mean row; the backward pass sums the parts.
    """
    if axis is None:
        return partial
    m = jax.lax.pmax(partial.m, axis)
    gap = partial.m - m
    f = jnp.exp(gap)
    mine = f * partial.mass
    mass = jax.lax.psum(mine, axis)
    first, second, row = partial.first, partial.second, partial.row
    if first is not None:
        first = jax.lax.psum(f * first + gap * mine, axis)
    if second is not None:
        second = jax.lax.psum(f * f * second, axis)
    if row is not None:
        row *= (mine / jnp.maximum(mass, jnp.finfo(jnp.float32).tiny))[:, None].astype(row.dtype)
    return Partial(m, mass, first, second, row, partial.tiles)


@pytree
class Tail:
    """What the backward pass needs of a token: z_y, log-sum-exp, p_y and 1 − p_y, both to full relative precision."""

    z: Float[Array, " n"]
    lse: Float[Array, " n"]
    p: Float[Array, " n"]
    q: Float[Array, " n"]


def finish(
    partial: Partial, target: Float[Array, " n"], outputs: Sequence[str], live: Bool[Array, " n"]
) -> tuple[LinearStats, Tail]:
    """Statistics from the sums over v ≠ y and the target's logit; 0 and False where not `live`."""
    top = jnp.maximum(partial.m, target)
    f, e = jnp.exp(partial.m - top), jnp.exp(target - top)
    others = f * partial.mass
    log_total = jnp.log1p(others + jnp.expm1(target - top))
    total = others + e
    made: dict[str, Array] = {}
    if "logp" in outputs:
        made["logp"] = target - top - log_total
    if "lse" in outputs:
        made["lse"] = top + log_total
    if partial.first is not None:
        mean = f * partial.first + (partial.m - top) * others + e * (target - top)
        made["entropy"] = log_total - mean / total
    if partial.second is not None:
        made["log_sum_p2"] = jnp.log(f * f * partial.second + e * e) - 2.0 * log_total
    made = {name: jnp.where(live, value, 0.0) for name, value in made.items()}
    if "match" in outputs:
        made["match"] = live & (target >= partial.m)
    return LinearStats(**made), Tail(target, top + log_total, e / total, others / total)
