"""The weighted sum of objectives (linear scalarisation): Σ_i w_i g_i, whatever the gradients are.

    G = Σ_i w_i g_i,    g_i = ∇ L_i,    L_i = the loss where annotator i alone gives the labels

With DPO as the loss this is DPO-LW, the linear baseline of Chen, Li, Chen & Lin 2026 (RACO, arXiv 2602.02495). It mixes
gradients where a panel mixes probabilities, so an annotator's ties take no part and its certainty is not averaged away.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclass(frozen=True)
class WeightedSum:
    """Fixed weights over the oracle's annotators, in their order."""

    weights: tuple[float, ...]
    """of each annotator's gradient, at least 0, not all of them 0; the paper's sum to 1"""

    @property
    def objectives(self) -> int:
        return len(self.weights)

    def problems(self) -> Iterable[str]:
        if not (self.weights and min(self.weights) >= 0 and max(self.weights) > 0):
            yield f"weights must be at least 0 and not all 0, got {self.weights}"

    def __call__(self, gram: Float[Array, "o o"]) -> Float[Array, " o"]:
        del gram  # the weights are the same whatever the gradients are
        return jnp.asarray(self.weights, jnp.float32)


EXAMPLE = WeightedSum((0.8, 0.2))
