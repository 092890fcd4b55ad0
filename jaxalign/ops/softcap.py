"""Soft-caps of scores: Gemma 2 (2408.00118) §2."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def softcap(scores: Float[Array, "*rows v"], cap: float | None) -> Float[Array, "*rows v"]:
    """cap · tanh(scores / cap): scores kept within ±cap. None leaves them as they are."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)
