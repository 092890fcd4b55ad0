"""Weights of pairs: how much each counts in the loss. They are no part of what is descended."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.scores import token_counts
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class OnPolicy:
    """How likely the policy is to say both answers: the product over the pair of
    exp( 1/|y| Σ_t [ log π(y_t) − log Σ_v π(v)² ] ), 1 for a policy that says every answer as if it had drawn it."""

    most: float | None = None
    """upper bound of a pair's weight, > 0; None: none (TRL). The paper's own code has 1"""

    @property
    def bounded(self) -> bool:
        return self.most is not None

    extras: ClassVar[tuple[str, ...]] = ("log_sum_p2",)

    def problems(self) -> Iterable[str]:
        if self.most is not None:
            yield from positive(most=self.most)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        assert logps.log_sum_p2 is not None
        aligned = jnp.where(logps.mask, logps.tokens - logps.log_sum_p2, 0.0).sum(-1) / token_counts(logps)
        # At most twice the logarithm of the vocabulary, 24 nats of 2^17 tokens: only of log-probs that are none more.
        weight = jnp.exp(jnp.minimum(aligned.sum(-1), 40.0))
        return jax.lax.stop_gradient(weight if self.most is None else jnp.minimum(weight, self.most))


EXAMPLE = OnPolicy(most=1.0)
