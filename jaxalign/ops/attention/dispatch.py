"""`attend`: which implementation runs where.

Few scores are held all at once. Rows longer than a block go through blocks of queries. On a mesh each device attends
for its own rows, heads and queries; where rows are cut into pieces (axis "context"), it gathers the keys and values of
the whole row first: with grouped queries they are a fraction of the activations (Llama 3: arXiv 2407.21783 §3.3.2).
"""

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxalign.mesh.layout import Layout
from jaxalign.ops.attention.behind import Behind, continued
from jaxalign.ops.attention.blockwise import blockwise
from jaxalign.ops.attention.reference import dense
from jaxalign.ops.attention.sight import Shown, Tree

Sight = Tree | Shown | Behind
"""What queries see: by rule, by a mask, or as tokens that go on behind prompts."""

BLOCK = 512
"""Queries of a block; rows no longer than that are one."""


def attend(
    query: Float[Array, "n q k g h"],
    key: Float[Array, "n k h c"],
    value: Float[Array, "n k c h"],
    sight: Sight,
    window: Int[Array, ""] | None,
    scalar: float,
    cap: float | None,
    layout: Layout | None,
) -> Float[Array, "n q k g h"]:
    """softmax(softcap(q·kᵀ / sqrt(scalar))) · v over what each query sees.

    Letters besides those of `jaxalign.types`: q queries of a row, c its keys, k KV heads, g queries a KV head, h head
    size. `window`: how many positions back a query sees, itself included; None: all. `cap`: of the scores; None: none.
    Rows of padding hold something finite that nothing reads. With a mask for a `sight`, all scores are held.
    """
    if isinstance(sight, Behind):
        return continued(query, key, value, sight, window, scalar, cap)
    if isinstance(sight, Shown):
        return dense(query, key, value, sight.mask(window), scalar, cap)
    if layout is not None:
        return _on_mesh(query, key, value, sight, window, scalar, cap, layout)
    return _local(query, key, value, (sight, sight), True, window, scalar, cap)


def _local(
    query: Array,
    key: Array,
    value: Array,
    ids: tuple[Tree, Tree],
    causal: bool,
    window: Array | None,
    scalar: float,
    cap: float | None,
) -> Array:
    if max(query.shape[1], key.shape[3]) <= BLOCK:
        return dense(query, key, value, ids[0].of(ids[1], window), scalar, cap)
    return blockwise(BLOCK, causal, scalar, cap, (query, key, value), ids, window)


def _on_mesh(
    query: Array,
    key: Array,
    value: Array,
    sight: Tree,
    window: Array | None,
    scalar: float,
    cap: float | None,
    layout: Layout,
) -> Array:
    group = query.shape[3]
    rows, sequence, kv, _, _ = layout.spec(query.shape, "rows", "sequence", "kv_heads", None, None)
    # KV heads that do not divide are repeated, and the queries of each split instead, if those do
    shared = None if kv is not None else layout.spec((group,), "heads")[0]
    heads, ids = P(rows, sequence, kv, shared, None), P(rows, sequence)

    def run(query: Array, key: Array, value: Array, mine: Tree, window: Array | None) -> Array:
        theirs = mine
        if sequence is not None:
            key = jax.lax.all_gather(key, sequence, axis=3, tiled=True)
            value = jax.lax.all_gather(value, sequence, axis=2, tiled=True)
            theirs = jax.tree.map(lambda each: jax.lax.all_gather(each, sequence, axis=1, tiled=True), mine)
        return _local(query, key, value, (mine, theirs), sequence is None, window, scalar, cap)

    takes = (heads, P(rows, kv, None, sequence), P(rows, kv, sequence, None), ids, P())
    return layout.mapped(run, takes, heads)(query, key, value, sight, window)
