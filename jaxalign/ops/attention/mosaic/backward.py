"""The backward kernel: all three gradients from one pass over the visits, 5 products of a block in place of 7.

    p = 2^(z − lse),   dv += pᵀ do,   dz = p ∘ (do vᵀ − Σ o ∘ do),   dk += dzᵀ q,   dq += dz k

A block of queries keeps its dq while it visits its blocks of keys; dk and dv of a whole row of one KV head stay in VMEM
until the row's last visit, so nothing is added to in HBM. Scores lie [q c]: there is no sum over keys to take, what a
query subtracts is a column made once a block of queries, and p and dz enter doᵀ p and qᵀ dz [h c] as they are.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from jaxalign.ops.attention.mosaic.blocks import LANES, Blocks
from jaxalign.ops.attention.mosaic.forward import in_turn
from jaxalign.ops.attention.mosaic.tile import (
    LOG2E,
    NN,
    NT,
    Refs,
    Tile,
    across,
    branches,
    column,
    dot,
    exponent,
    factor,
    mask,
)
from jaxalign.ops.attention.mosaic.visits import CLOSES, FIRST, LAST, OPENS
from jaxalign.ops.attention.problem import Scores


def body(refs: Refs, scores: Scores, group: int, blocks: Blocks) -> None:
    """One visit."""
    # asked for here: inside a branch the interpreter does not know it
    visit = pl.program_id(1)
    flags, block = refs["flags"][visit], refs["key"][visit]
    pl.when(flags & OPENS != 0)(partial(_open, refs))
    pl.when(flags & FIRST != 0)(partial(_begin, refs, scores, group))
    branches(flags, group, blocks, partial(_visit, refs, scores, block))
    pl.when(flags & LAST != 0)(partial(_finish, refs, scores, group))
    pl.when(flags & CLOSES != 0)(partial(_close, refs, scores, blocks))


def _open(refs: Refs) -> None:
    shape = refs["key_sums"].shape[1:]

    @pl.loop(0, refs["key_sums"].shape[0])
    def _(block: Array) -> None:
        for name in ("key_sums", "value_sums"):
            refs[name][block] = jnp.zeros(shape, jnp.float32)


def _begin(refs: Refs, scores: Scores, group: int) -> None:
    query, h = refs["query_block"], refs["key_block"].shape[2]
    for head in range(group):
        columns = slice(head * h, (head + 1) * h)
        scaled = query[0, :, columns].astype(jnp.float32) * factor(scores)
        refs["scaled"][head] = scaled.astype(query.dtype)
        refs["scaled_rows"][head] = scaled.T.astype(query.dtype)
        pulled = refs["of_found"][0, :, columns]
        refs["of_found_rows"][head] = pulled.T
        shared = (refs["found"][0, :, columns].astype(jnp.float32) * pulled.astype(jnp.float32)).sum(1, keepdims=True)
        refs["shared"][head] = jnp.broadcast_to(shared, (shared.shape[0], LANES))
        refs["lse_column"][head] = column(refs["lse"][0, 0, head : head + 1, :])
    refs["query_sums"][...] = jnp.zeros(refs["query_sums"].shape, jnp.float32)


def _visit(refs: Refs, scores: Scores, block: Array, order: list[Tile], keys: Any, masked: bool) -> None:
    key, value = refs["key_block"][0, keys, :], refs["value_block"][0, keys, :]
    count, h = key.shape
    if masked:
        refs["mask"][...] = mask(refs, order[0][1], keys, transposed=False)

    def products(tile: Tile) -> tuple[Array, Array]:
        head, queries = tile
        pulled = refs["of_found"][0, queries, head * h : (head + 1) * h]
        return dot(refs["scaled"][head, queries, :], key, NT), dot(pulled, value, NT)

    def shares(tile: Tile, products: tuple[Array, Array]) -> tuple[Array, Array]:
        """p, and the gradient of what the product with the scaled query is, up to a constant."""
        head, queries = tile
        capped = z = exponent(products[0], scores)
        if masked:
            z = z + refs["mask"][...]
        p = jnp.exp2(z - across(refs["lse_column"][head, queries, :], count))
        of_z = p * (products[1] - across(refs["shared"][head, queries, :], count))
        if scores.cap is not None:
            of_z *= 1.0 - jnp.square(capped * (1 / (scores.cap * LOG2E)))
        return p.astype(value.dtype), of_z.astype(key.dtype)

    def add(tile: Tile, p: Array, of_z: Array) -> None:
        head, queries = tile
        refs["value_sums"][block, :, keys] += dot(refs["of_found_rows"][head, :, queries], p, NN)
        refs["key_sums"][block, :, keys] += dot(refs["scaled_rows"][head, :, queries], of_z, NN)
        refs["query_sums"][head, queries, :] += dot(of_z, key, NN)

    in_turn(order, products, shares, add)


def _finish(refs: Refs, scores: Scores, group: int) -> None:
    h = refs["key_block"].shape[2]
    for head in range(group):
        made = refs["query_sums"][head] / scores.scalar**0.5
        refs["of_query"][0, :, head * h : (head + 1) * h] = made.astype(refs["of_query"].dtype)


def _close(refs: Refs, scores: Scores, blocks: Blocks) -> None:
    # sums of dz times the scaled query: what it was multiplied with beyond 1 / sqrt(scalar) is taken back
    back = 1 / (factor(scores) * scores.scalar**0.5)

    @pl.loop(0, refs["key_sums"].shape[0])
    def _(block: Array) -> None:
        rows = pl.ds(pl.multiple_of(block * blocks.keys, blocks.keys), blocks.keys)
        refs["of_key"][0, rows, :] = (refs["key_sums"][block] * back).T.astype(refs["of_key"].dtype)
        refs["of_value"][0, rows, :] = refs["value_sums"][block].T.astype(refs["of_value"].dtype)
