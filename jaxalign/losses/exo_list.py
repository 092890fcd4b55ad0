"""EXO on rewards: the reverse KL from the policy's own preferences among K answers to those of their rewards. Ji et al.
2024 (arXiv 2402.00856).

    loss = KL( softmax(beta ρ) ‖ softmax(S / temperature) ),        ρ = log π/π_anchor(y)

over the K answers of a group. Least, 0, where ρ is S / (beta · temperature) but for a constant of the prompt: the
policy that is best for the reward S under the penalty beta · temperature · KL.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.ratings import By, ratings
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class EXOList:
    """KL (nats) from the implicit preferences among the answers to those of their ratings."""

    temperature: float
    """of the ratings, in their unit, > 0"""
    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    by: By = "score"
    """what rates answers"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int | None] = None

    def problems(self) -> Iterable[str]:
        yield from positive(temperature=self.temperature, beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        own = jax.nn.log_softmax(self.beta * LogRatio()(logps))
        return (jnp.exp(own) * (own - jax.nn.log_softmax(ratings(logps, self.by) / self.temperature))).sum(-1)


EXAMPLE = EXOList(temperature=0.5, beta=0.1)
