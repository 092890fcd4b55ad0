"""The keys and values that decoding keeps: of each prompt once, and of each row what it has said behind its prompt."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.mesh.layout import Layout
from jaxalign.models.attention import KeyValue
from jaxalign.models.rope import Angles
from jaxalign.types import pytree

Prompts = tuple[tuple[Float[Array, "b k h p"], Float[Array, "b k p h"]], ...]
Own = tuple[tuple[Float[Array, "n k h t"], Float[Array, "n k t h"]], ...]
"""Keys and values of each layer, apart."""

Turns = tuple[tuple[Float[Array, "b t 1 half"], Float[Array, "b t 1 half"]], ...]
"""cos and sin of each rotation"""

Column = tuple[Float[Array, "n k h 1"], Float[Array, "n k 1 h"]]


@pytree
class Cache:
    """What rows read that go on from prompts, n/b neighbours from each."""

    prompts: Prompts
    """of b prompts, which end in the last column"""
    own: Own
    """of n rows, filled from the first column on"""
    turns: Turns
    """at the positions of these columns"""

    def turn(self, rope: int, said: Int[Array, ""], rows: int) -> Angles:
        """Of the newest of `said` tokens of all rows."""

        def newest(table: Float[Array, "b t 1 half"]) -> Float[Array, "n 1 1 half"]:
            found = jax.lax.dynamic_slice_in_dim(table, said - 1, 1, axis=1)
            return jnp.repeat(found, rows // len(found), axis=0)

        # Looked up, not computed: XLA would compute them anew for each number that any layer turns.
        cos, sin = self.turns[rope]
        return newest(cos), newest(sin)


def insert(old: KeyValue, new: Column, index: Int[Array, ""]) -> KeyValue:
    """One layer's cache with column `index` overwritten; in place where the cache is a loop's carry."""
    write = jax.lax.dynamic_update_slice_in_dim
    return write(old[0], new[0], index, axis=3), write(old[1], new[1], index, axis=2)


def empty(prompts: Prompts, rows: int, columns: int, layout: Layout | None) -> Own:
    """Room for `columns` tokens of each of `rows` rows, split over a mesh as prompts are."""

    def zeros(like: Float[Array, "b k _ _"], shape: tuple[int, ...]) -> Float[Array, "n k _ _"]:
        made = jnp.zeros(shape, like.dtype)
        return made if layout is None else layout.place(made, "rows", "kv_heads", None, None)

    return tuple(
        (zeros(key, (rows, *key.shape[1:3], columns)), zeros(value, (rows, value.shape[1], columns, value.shape[3])))
        for key, value in prompts
    )
