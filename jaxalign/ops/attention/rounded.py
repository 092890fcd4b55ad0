"""Keys and values of continuations in eight bits: codes of which one fp32 scale serves a head of a token.

The largest magnitude of a head's numbers is 127 codes, so that each is off by half a scale at most. A scale is a factor
of a whole column of scores, or of a share, and no product needs the numbers themselves. 8 + 32 / h bits a number.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.types import pytree

CODES = 127


@pytree
class Rounded:
    """What `codes` [… h …] and `scale` [… 1 …], along the axis of a head's numbers, stand for; shardings have the same
    form, so its fields are of any array's type."""

    codes: Array
    scale: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the numbers."""
        return tuple(self.codes.shape)


def rounded(x: Float[Array, "n k _ _"], axis: int) -> Rounded:
    """Of keys (axis 2) or values (axis 3)."""
    wide = x.astype(jnp.float32)
    scale = jnp.abs(wide).max(axis=axis, keepdims=True) / CODES
    # a column that nobody has written is 0, and so are its codes
    codes = jnp.round(wide / jnp.where(scale > 0, scale, 1.0)).astype(jnp.int8)
    return Rounded(codes, scale)
