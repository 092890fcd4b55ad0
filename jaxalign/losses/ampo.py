"""AMPO: the best answer against several at once, without a reference. Gupta et al. 2025 (arXiv 2502.18293), with the
group contrast of SWEPO (Gupta et al. 2024, arXiv 2412.04628) for one positive answer.

    loss = −log( e^s_1 / Σ_i e^s_i ),        s = log π(y) + alpha ( S(y) − mean S )

over the K answers of a group, the best rated one being the first of them: `BestBottom` makes such groups. alpha > 0
asks for less where an answer is rated lower, alpha < 0 for more; 0 is a plain contrast. Log-probs are sums over tokens.
The formula is that of a published summary of the paper, whose own text could not be read.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.ratings import By, best_first, ratings
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class AMPO:
    """Negative log-likelihood (nats) of the best answer among those of its group."""

    alpha: float
    """of the ratings' deviation from their mean, in nats a unit of them"""
    by: By = "score"
    """what rates answers"""

    needs: ClassVar[tuple[str, ...]] = ()
    responses: ClassVar[int | None] = None

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        rated = ratings(logps, self.by)
        scores = logps.sums + self.alpha * (rated - jnp.mean(rated, axis=-1, keepdims=True))
        return -jax.nn.log_softmax(best_first(rated, scores))[:, 0]


EXAMPLE = AMPO(alpha=0.5)
