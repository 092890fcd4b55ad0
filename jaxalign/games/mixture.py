"""The geometric mixture of two policies: mirror descent with a pull to an anchor begins its step there."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.games.game import Real


def geometric_mixture(logp: Float[Array, " v"], anchor: Float[Array, " v"], share: Real) -> Float[Array, " v"]:
    """log π^(1 - share) anchor^share, not normalised, in nats; `share` is eta tau in mirror descent."""
    return jnp.asarray((1.0 - share) * logp + share * anchor)
