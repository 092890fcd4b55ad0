"""The forward kernel: softmax online over the blocks of keys that a block of queries visits.

Scores are kept transposed [c q]: keys run over sublanes, so a maximum or a sum over them is arithmetic of registers, a
query's are rows of lanes, and the shares enter the second product, vᵀ p [h q], as they are: its left side is no deeper
than a head, which on matrix units of 256 columns (v6e) costs nothing, where the other way round half of them idle.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from jaxalign.ops.attention.mosaic.blocks import Blocks
from jaxalign.ops.attention.mosaic.tile import (
    NEGATIVE,
    NN,
    NT,
    Refs,
    Tile,
    branches,
    dot,
    exponent,
    factor,
    mask,
)
from jaxalign.ops.attention.mosaic.visits import FIRST, LAST
from jaxalign.ops.attention.problem import Scores


def body(refs: Refs, scores: Scores, group: int, blocks: Blocks) -> None:
    """One visit."""
    flags = refs["flags"][pl.program_id(1)]
    pl.when(flags & FIRST != 0)(partial(_begin, refs, scores, group))
    branches(flags, group, blocks, partial(_visit, refs, scores))
    pl.when(flags & LAST != 0)(partial(_finish, refs, group))


def _begin(refs: Refs, scores: Scores, group: int) -> None:
    query, h = refs["query_block"], refs["key_block"].shape[2]
    for head in range(group):
        scaled = query[0, :, head * h : (head + 1) * h].astype(jnp.float32) * factor(scores)
        refs["scaled"][head] = scaled.astype(query.dtype)
    refs["m"][...] = jnp.full(refs["m"].shape, NEGATIVE, jnp.float32)
    refs["mass"][...] = jnp.zeros(refs["mass"].shape, jnp.float32)
    refs["sums"][...] = jnp.zeros(refs["sums"].shape, jnp.float32)


def _visit(refs: Refs, scores: Scores, order: list[Tile], keys: Any, masked: bool) -> None:
    key, value = refs["key_block"][0, keys, :], refs["value_block"][0, keys, :].T
    if masked:
        refs["mask"][...] = mask(refs, order[0][1], keys, transposed=True)

    def product(tile: Tile) -> Array:
        head, queries = tile
        return dot(key, refs["scaled"][head, queries, :], NT)

    def shares(tile: Tile, product: Array) -> tuple[Array, Array]:
        """2^(z − m) of the tile, and what multiplies sums relative to the maximum before it."""
        head, queries = tile
        row = slice(head, head + 1)
        z = exponent(product, scores)
        if masked:
            z = z + refs["mask"][...]
        old = refs["m"][row, queries]
        m = jnp.maximum(old, z.max(0, keepdims=True))
        p, f = jnp.exp2(z - m), jnp.exp2(old - m)
        refs["mass"][row, queries] = refs["mass"][row, queries] * f + p.sum(0, keepdims=True)
        refs["m"][row, queries] = m
        return p.astype(value.dtype), f

    def add(tile: Tile, p: Array, f: Array) -> None:
        head, queries = tile
        refs["sums"][head, :, queries] = refs["sums"][head, :, queries] * f + dot(value, p, NN)

    in_turn(order, product, shares, add)


def in_turn(order: list[Tile], product: Any, shares: Any, add: Any) -> None:
    """The three stages of all tiles, products two tiles ahead and sums one behind.

    The compiler moves instructions only so far: in this order the matrix units have the products of other tiles to make
    while the softmax of one is computed.
    """
    made, waiting = [product(tile) for tile in order[:2]], None
    for number, tile in enumerate(order):
        found = shares(tile, made[number])
        if number + 2 < len(order):
            made.append(product(order[number + 2]))
        if waiting is not None:
            add(*waiting)
        waiting = (tile, *found)
    assert waiting is not None
    add(*waiting)


def _finish(refs: Refs, group: int) -> None:
    h = refs["key_block"].shape[2]
    for head in range(group):
        row = slice(head, head + 1)
        # a query that has seen nothing has no mass: it gets 0, and a log-sum-exp at which no share is above 0
        mass = jnp.maximum(refs["mass"][row, :], jnp.finfo(jnp.float32).tiny)
        found = refs["sums"][head] / mass
        refs["found"][0, :, head * h : (head + 1) * h] = found.T.astype(refs["found"].dtype)
        lse = refs["m"][row, :] + jnp.log2(mass)
        refs["lse"][0, 0, row, :] = jnp.where(refs["mass"][row, :] > 0, lse, NEGATIVE)
