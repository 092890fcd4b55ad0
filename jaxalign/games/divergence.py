"""Divergences between log-policies, accurate down to where they vanish."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def kl(logp: Float[Array, " v"], logq: Float[Array, " v"]) -> Float[Array, ""]:
    """KL(p ‖ q), nats, as the sum over y of p (q/p - 1 - log q/p).

    The sum equals sum p log p/q for normalised policies, but each term is non-negative and of second order in the
    log-ratio: near p = q the plain formula loses everything below about 1e-16 to rounding, this one keeps it.
    """
    ratio = logq - logp
    near = jnp.abs(ratio) < 1.0
    small = jnp.where(near, ratio, 0.0)
    p = jnp.exp(logp)
    return jnp.where(near, p * (jnp.expm1(small) - small), jnp.exp(logq) - p - p * ratio).sum()
