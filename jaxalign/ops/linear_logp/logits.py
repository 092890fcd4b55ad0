"""Scores to logits: what a family does between the head's dot product and the softmax."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Logits:
    """z = softcap · tanh(scale · score / softcap) / temperature, with score = <h, W_v> + bias_v.

    Without a soft-cap z = scale · score / temperature. Static: a new value compiles a new program. Raises ValueError
    for a soft-cap or temperature that is not positive.
    """

    scale: float = 1.0
    """multiplies the score (Cohere's and Granite's logit scale)"""
    softcap: float | None = None
    """bound of |z| before the temperature, > 0 (Gemma 2: 30)"""
    temperature: float = 1.0
    """divides the capped logit, > 0"""

    def __post_init__(self) -> None:
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"softcap must be positive, got {self.softcap}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def __call__(self, scores: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logits (nats) of scores, in the dtype of the scores."""
        if self.softcap is not None:
            return jnp.tanh(scores * (self.scale / self.softcap)) * (self.softcap / self.temperature)
        factor = self.scale / self.temperature
        return scores if factor == 1.0 else scores * factor

    def times_slope(self, logits: Float[Array, "..."], values: Float[Array, "..."]) -> Float[Array, "..."]:
        """`values` · dz/dscore at these logits: scale / temperature · (1 − tanh²)."""
        factor = self.scale / self.temperature
        if self.softcap is not None:
            # a masked entry lies far outside the cap; its slope must be 0, not ∞
            capped = jnp.clip(logits * (self.temperature / self.softcap), -1.0, 1.0)
            return values * (factor * (1.0 - capped * capped))
        return values if factor == 1.0 else values * factor
