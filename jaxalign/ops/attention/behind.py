"""Attention of continuations: one new token a row, which sees its prompt and what the row has said since.

Prompts are kept once, whatever the rows that go on from them. Letters besides those of `jaxalign.types`: n rows, b
prompts, k KV heads, g query heads per KV head, h head size; u is b where prompts are read for all of their rows
together, n where each row reads its own. Under a window there may be fewer columns than tokens: the prompts' last, and
those of each row in turn, the newest in the place of the oldest (Mistral's rolling cache: arXiv 2310.06825).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalign.ops.attention.reference import MASKED, wide
from jaxalign.ops.attention.rounded import Rounded
from jaxalign.ops.softcap import softcap
from jaxalign.types import pytree


@pytree
class Together:
    """n/b neighbours go on from each prompt, and all have said as much.

    Rows of one prompt read its keys and values together: one product serves all of them (the shared prefixes of
    Hydragen: Juravsky et al. 2024, arXiv 2402.05099).
    """

    prompt: Int[Array, " b"]
    """tokens of each prompt"""
    said: Int[Array, ""]
    """tokens of each row behind it, the new one included"""

    def shown(
        self, before: int, columns: int, window: Int[Array, ""] | None
    ) -> tuple[Bool[Array, "b p"], Bool[Array, "1 t"]]:
        """Which columns are seen: of the prompts' `before`, and of the rows' own `columns`."""
        return _shown(self.prompt, self.said[None], before, columns, window)

    def trunks(self, x: Array) -> Array:
        """What is kept of the prompts [b …], as `gathered` rows read it."""
        return x

    def gathered(self, x: Float[Array, "n k g c"]) -> Float[Array, "b k q c"]:
        """Rows side by side that read the same."""
        b, (n, k, g, _) = len(self.prompt), x.shape
        return x.reshape(b, n // b, k, g, -1).swapaxes(1, 2).reshape(b, k, n // b * g, -1)

    def scattered(self, x: Float[Array, "b k q c"], rows: int) -> Float[Array, "n k g c"]:
        """Each of the rows by itself again."""
        b, k, q, _ = x.shape
        return x.reshape(b, k, rows // b, b * q // rows, -1).swapaxes(1, 2).reshape(rows, k, b * q // rows, -1)

    def newest(self, table: Array, rows: int) -> Array:
        """Of a table [b t …] by prompt and by tokens said, what is each row's [n 1 …]."""
        found = jax.lax.dynamic_slice_in_dim(table, self.said - 1, 1, axis=1)
        return jnp.repeat(found, rows // len(found), axis=0)

    def written(self, old: Array, new: Array, axis: int) -> Array:
        """`old` [n …] with the newest token in its column of `axis`; in place where it is a loop's carry."""
        return jax.lax.dynamic_update_slice_in_dim(old, new, (self.said - 1) % old.shape[axis], axis=axis)


@pytree
class Apart:
    """Each row goes on from a prompt of its own choice and has said what it has. Rows and prompts lie in pools, as many
    in each: devices that have a pool need nothing of the others."""

    prompt: Int[Array, " b"]
    """tokens of each prompt"""
    trunk: Int[Array, "pool row"]
    """which of its pool's prompts a row goes on from"""
    said: Int[Array, "pool row"]
    """tokens of each row behind its prompt, the new one included"""

    def shown(
        self, before: int, columns: int, window: Int[Array, ""] | None
    ) -> tuple[Bool[Array, "n p"], Bool[Array, "n t"]]:
        """Which columns are seen: of the prompts' `before`, and of the rows' own `columns`."""
        return _shown(self.trunks(self.prompt), self.said.reshape(-1), before, columns, window)

    def trunks(self, x: Array) -> Array:
        """What is kept of the prompts [b …], for each row [n …]."""
        found = jax.vmap(partial(jnp.take, axis=0))(self._by_pool(x), self.trunk)
        return found.reshape(-1, *x.shape[1:])

    def gathered(self, x: Float[Array, "n k g c"]) -> Float[Array, "n k g c"]:
        """Each row reads for itself."""
        return x

    def scattered(self, x: Float[Array, "n k g c"], rows: int) -> Float[Array, "n k g c"]:
        """As they are."""
        del rows
        return x

    def newest(self, table: Array, rows: int) -> Array:
        """Of a table [b t …] by prompt and by tokens said, what is each row's [n 1 …]."""
        found = jax.vmap(lambda pool, trunk, said: pool[trunk, said - 1])(self._by_pool(table), self.trunk, self.said)
        return found.reshape(rows, 1, *table.shape[2:])

    def written(self, old: Array, new: Array, axis: int) -> Array:
        """`old` [n …] with the newest token in its column of `axis`, row by row."""
        write = partial(jax.lax.dynamic_update_slice_in_dim, axis=axis - 1)
        return jax.vmap(write)(old, new, (self.said.reshape(-1) - 1) % old.shape[axis])

    def _by_pool(self, x: Array) -> Array:
        return x.reshape(len(self.trunk), -1, *x.shape[1:])


Progress = Together | Apart
"""How far rows are behind which prompts."""


@pytree
class Behind:
    """Sight of the newest token of each row: of all that the row has said, and of its prompt."""

    key: Float[Array, "b k h p"] | Rounded
    """of the prompts, which end in the last column"""
    value: Float[Array, "b k p h"] | Rounded
    progress: Progress


def continued(
    query: Float[Array, "n 1 k g h"],
    key: Float[Array, "n k h t"] | Rounded,
    value: Float[Array, "n k t h"] | Rounded,
    sight: Behind,
    window: Int[Array, ""] | None,
    scalar: float,
    cap: float | None,
) -> Float[Array, "n 1 k g h"]:
    """softmax(softcap(q·kᵀ / sqrt(scalar))) · v over the prompt and the row's own `key` and `value`."""
    n, p, progress = query.shape[0], sight.key.shape[3], sight.progress
    seen, own = progress.shown(p, key.shape[3], window)
    # Queries stand left and are not moved in any product: with the cache on the left, as einsum would have it to give
    # the axes in another order, XLA's CPU compiler multiplies matrices of g columns, at a quarter of the speed.
    rows = query[:, 0]
    trunk_keys, trunk_values = jax.tree.map(progress.trunks, (sight.key, sight.value))
    of_prompt = _scores(progress.gathered(rows), trunk_keys, scalar, cap)
    of_prompt = progress.scattered(jnp.where(seen[:, None, None], of_prompt, MASKED), n)
    of_own = jnp.where(own[:, None, None], _scores(rows, key, scalar, cap), MASKED)
    share = jax.nn.softmax(jnp.concatenate([of_prompt, of_own], axis=-1), axis=-1)
    found = _found(progress.gathered(share[..., :p]), trunk_values, query.dtype)
    return (progress.scattered(found, n) + _found(share[..., p:], value, query.dtype)).astype(query.dtype)[:, None]


def _scores(query: Array, key: Array | Rounded, scalar: float, cap: float | None) -> Float[Array, "n k q c"]:
    if isinstance(key, Rounded):
        found = wide("nkqh,nkhc->nkqc", query, key.codes.astype(query.dtype)) * key.scale
    else:
        found = wide("nkqh,nkhc->nkqc", query, key)
    return softcap(found / math.sqrt(scalar), cap)


def _found(share: Float[Array, "n k q c"], value: Array | Rounded, dtype: jnp.dtype) -> Float[Array, "n k q h"]:
    if isinstance(value, Rounded):
        share, value = share * value.scale.swapaxes(2, 3), value.codes
    return wide("nkqc,nkch->nkqh", share.astype(dtype), value.astype(dtype))


def _shown(
    prompt: Int[Array, " u"], said: Int[Array, " n"], before: int, columns: int, window: Int[Array, ""] | None
) -> tuple[Bool[Array, "u p"], Bool[Array, "n t"]]:
    """Columns seen of prompts that end in column `before`, and of rows that begin in column 0, and there again where
    they have said more than there are columns. One `said` is of all."""
    trunk, own = jnp.arange(before), jnp.arange(columns)
    seen, behind = trunk[None] >= before - prompt[:, None], own[None] < said[:, None]
    if window is None:
        return seen, behind
    # positions between the new token and each column's
    far = said[:, None] - 1 + before - trunk[None]
    return seen & (far < window), behind & ((said[:, None] - 1 - own[None]) % columns < window)
