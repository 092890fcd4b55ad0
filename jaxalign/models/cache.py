"""The keys and values that decoding keeps: one pair of arrays a layer, a column a position."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.models.attention import KeyValue

Layers = tuple[KeyValue, ...]
"""A cache: keys [b k h c] and values [b k c h] of each layer, apart."""

Column = tuple[Float[Array, "n k h 1"], Float[Array, "n k 1 h"]]


def insert(old: KeyValue, new: Column, index: Int[Array, ""]) -> KeyValue:
    """One layer's cache with column `index` overwritten; in place where the cache is a loop's carry."""
    write = jax.lax.dynamic_update_slice_in_dim
    return write(old[0], new[0], index, axis=3), write(old[1], new[1], index, axis=2)


def extended(filled: KeyValue, columns: int) -> tuple[Float[Array, "n k h _"], Float[Array, "n k _ h"]]:
    """One layer's cache with so many empty columns behind."""
    key, value = filled
    return jnp.pad(key, ((0, 0), (0, 0), (0, 0), (0, columns))), jnp.pad(value, ((0, 0), (0, 0), (0, columns), (0, 0)))
