"""TRPA: trust region preference approximation, every answer of a better level against every one of a worse. Su et al.
2025 (arXiv 2504.04524), as its code has it.

    loss = mean over pairs with S_i > S_j of −log σ( k beta ( s_i − s_j ) ),        s = log π/π_anchor(y) / |y|

for the K answers of a group; k is `first` for pairs whose better answer is of the first level, else 1. Levels are the
different ratings: what rules give (right, well-formed, neither), not scores of a model. The code's first level is what
its rules find right, whether a group has such an answer or not: that is `top`. Groups of one level have no gradient.
The code's mean is over all pairs of a batch, here every group counts the same; its pull to the policy that sampled is a
term of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.ratings import By, ratings
from jaxalign.losses.parts.scores import LogRatio, token_counts
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class TRPA:
    """Negative log-likelihood (nats) of the order of the levels."""

    beta: float = 0.1
    """scale of the mean log-ratio, > 0"""
    first: float = 2.5
    """how much more it counts for answers of the first level, > 0 (the code's anisotropy)"""
    top: float | None = None
    """rating from which an answer is of the first level; None: the best answers of each group are"""
    by: By = "score"
    """what says of which level an answer is"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int | None] = None

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta, first=self.first)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        levels, score = ratings(logps, self.by), LogRatio()(logps) / token_counts(logps)
        above = levels[:, :, None] > levels[:, None, :]
        best = levels >= (levels.max(-1, keepdims=True) if self.top is None else jnp.float32(self.top))
        scale = self.beta * jnp.where(best, jnp.float32(self.first), jnp.float32(1))
        pairs = -jax.nn.log_sigmoid(scale[:, :, None] * (score[:, :, None] - score[:, None, :]))
        count = jnp.maximum(above.sum((1, 2)), 1).astype(jnp.float32)
        return jnp.where(above, pairs, 0.0).sum((1, 2)) / count


EXAMPLE = TRPA(beta=0.3)
