"""The keys and values that decoding keeps: of each prompt once, and of each row what it has said behind its prompt."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jaxalign.mesh.layout import Layout
from jaxalign.models.attention import KeyValue
from jaxalign.models.rope import Angles
from jaxalign.ops.attention import Progress, Rounded, rounded
from jaxalign.types import pytree

Kind = Literal["exact", "int8"]
"""Keys and values as computed, or as eight bits and a scale for each head of a token (`ops.attention.rounded`)."""

Prompts = tuple[tuple[Float[Array, "b k h _"] | Rounded, Float[Array, "b k _ h"] | Rounded], ...]
Own = tuple[tuple[Float[Array, "n k h _"] | Rounded, Float[Array, "n k _ h"] | Rounded], ...]
"""Keys and values of each layer, apart: of those with a window as many columns as it sees."""

Turns = tuple[tuple[Float[Array, "b t 1 half"], Float[Array, "b t 1 half"]], ...]
"""cos and sin of each rotation"""

Column = tuple[Float[Array, "n k h 1"], Float[Array, "n k 1 h"]]


@pytree
class Cache:
    """What n rows read that go on from b prompts."""

    prompts: Prompts
    """of the prompts, which end in the last column"""
    own: Own
    """of the rows, filled from the first column on; where a layer's columns are all filled, from the first again"""
    turns: Turns
    """at the positions of these columns"""

    def turn(self, rope: int, progress: Progress, rows: int) -> Angles:
        """Of the newest token of all rows."""
        # Looked up, not computed: XLA would compute them anew for each number that any layer turns.
        cos, sin = self.turns[rope]
        return progress.newest(cos, rows), progress.newest(sin, rows)

    def holding(self, other: "Cache", places: Int[Array, "pool new"]) -> "Cache":
        """With the prompts of `other` in these places of each pool, in place of those that were there; a place beyond
        the last is none."""

        def put(old: Array, new: Array) -> Array:
            pools = (len(places), -1)
            inner = jax.vmap(lambda there, place, made: there.at[place].set(made, mode="drop"))
            found = inner(old.reshape(*pools, *old.shape[1:]), places, new.reshape(*pools, *new.shape[1:]))
            return found.reshape(old.shape)

        prompts, turns = jax.tree.map(put, (self.prompts, self.turns), (other.prompts, other.turns))
        return dataclasses.replace(self, prompts=prompts, turns=turns)

    def split(self, layout: Layout) -> Any:
        """The shardings of its arrays, or of the shapes of them, in its structure."""
        leaves, structure = jax.tree.flatten(self)
        by_heads = len(jax.tree.leaves((self.prompts, self.own)))
        names = ["kv_heads"] * by_heads + [None] * (len(leaves) - by_heads)
        places = (layout.sharding(a.shape, "rows", name, None, None) for a, name in zip(leaves, names, strict=True))
        return jax.tree.unflatten(structure, places)


def kept(key: Float[Array, "n k h c"], value: Float[Array, "n k c h"], kind: Kind) -> KeyValue:
    """One layer's keys and values, as a cache of this kind keeps them."""
    return (key, value) if kind == "exact" else (rounded(key, axis=2), rounded(value, axis=3))


def near(
    key: Float[Array, "n k h c"], value: Float[Array, "n k c h"], window: int | None
) -> tuple[Float[Array, "n k h w"], Float[Array, "n k w h"]]:
    """Of a prompt's keys and values what the tokens behind it see in a layer: under a window, the last columns."""
    # the first token behind is one of its own window
    first = 0 if window is None else max(key.shape[3] - max(window - 1, 1), 0)
    return key[..., first:], value[:, :, first:]


def insert(old: KeyValue, new: Column, progress: Progress) -> KeyValue:
    """One layer's own keys and values with those of the newest tokens."""
    columns = kept(*new, "int8" if isinstance(old[0], Rounded) else "exact")
    key, value = (partial(progress.written, axis=axis) for axis in (3, 2))
    return jax.tree.map(key, old[0], columns[0]), jax.tree.map(value, old[1], columns[1])


def empty(prompts: Prompts, rows: int, columns: Sequence[int], layout: Layout | None) -> Own:
    """Room for so many tokens in each layer for each of `rows` rows, split over a mesh as prompts are."""

    def zeros(like: Shaped[Array, "b k _ _"], axis: int, columns: int) -> Shaped[Array, "n k _ _"]:
        shape = [rows, *like.shape[1:]]
        shape[axis] = columns
        made = jnp.zeros(shape, like.dtype)
        return made if layout is None else layout.place(made, "rows", "kv_heads", None, None)

    def layer(keys: Any, values: Any, columns: int) -> KeyValue:
        key, value = (partial(zeros, axis=axis, columns=columns) for axis in (3, 2))
        return jax.tree.map(key, keys), jax.tree.map(value, values)

    return tuple(layer(*each, room) for each, room in zip(prompts, columns, strict=True))
