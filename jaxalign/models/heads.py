"""Heads for rewards, general preferences and classes on the last token's hidden state of any family.

    scalar       r = w·h                      P(i ≻ j) = σ(r_i − r_j)           Bradley & Terry 1952; Ouyang et al. 2022
                                                                              (arXiv 2203.02155), eq. 1
    preference   v = W h of 2k dimensions     P(i ≻ j) = σ(Σ_l v_i[2l] v_j[2l+1] − v_i[2l+1] v_j[2l])
                                              skew-symmetric, so preferences may cycle: Zhang et al. 2024
                                              (arXiv 2410.02197), the general preference model
    classes      z = W h                      softmax(z)

The weight [o d] has no bias.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def last_tokens(
    hidden: Float[Array, "n s d"], segment: Int[Array, "n s"], position: Int[Array, "n s"], count: int
) -> Float[Array, "n k d"]:
    """Hidden state of the token of the greatest position in each segment 0 … count - 1 (= k) of every row; zeros where
    there is none.

    Columns of other segments, such as -1 for padding on either side, are left out, so rows may be left-padded,
    right-padded, hold many responses, or have their columns in another order.
    """
    member = segment[:, None, :] == jnp.arange(count, dtype=segment.dtype)[None, :, None]
    last = jnp.argmax(jnp.where(member, position[:, None], -1), axis=-1)
    found = jnp.take_along_axis(hidden, last[..., None], axis=1)
    return jnp.where(member.any(-1)[..., None], found, 0)


def outputs(weight: Float[Array, "o d"], pooled: Float[Array, "*rows d"]) -> Float[Array, "*rows o"]:
    """W h in fp32."""
    return jnp.einsum("...d,od->...o", pooled, weight.astype(pooled.dtype), preferred_element_type=jnp.float32)


def preference_margin(first: Float[Array, "*rows o"], second: Float[Array, "*rows o"]) -> Float[Array, "*rows"]:
    """Log-odds of first ≻ second under a preference head (o = 2k): changes sign when the two are swapped."""
    return (first[..., 0::2] * second[..., 1::2] - first[..., 1::2] * second[..., 0::2]).sum(-1)
