"""PRO: preference ranking optimisation, each answer against all worse ones by how much worse they are. Song et al. 2023
(arXiv 2306.17492).

    loss = Σ_{k < K} −log( e^(T_k s_k) / ( e^(T_k s_k) + Σ_{i > k} e^(T_ki s_i) ) ) − likelihood (K − 1)² s_1
    s    = log π(y)/|y|,        T_ki = S_k − S_i,        T_k = max_{i > k} T_ki

for the K answers of a group from the best to the worst, without a reference. (K − 1)² is its code's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.ratings import By, best_first, ratings
from jaxalign.losses.parts.scores import Logp, TokenMean
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class PRO:
    """Negative log-likelihood (nats) of the ranking with temperatures of the ratings, and of the best answer."""

    likelihood: float = 0.05
    """weight of the best answer's likelihood before (K − 1)², >= 0"""
    by: By = "score"
    """what rates answers"""

    needs: ClassVar[tuple[str, ...]] = ()
    responses: ClassVar[int | None] = None

    def problems(self) -> Iterable[str]:
        if not self.likelihood >= 0:
            yield f"likelihood must not be negative, got {self.likelihood}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        rated, means = ratings(logps, self.by), TokenMean(Logp())(logps)
        rated, means = best_first(rated, rated), best_first(rated, means)
        count = rated.shape[1]
        total = -self.likelihood * (count - 1) ** 2 * means[:, 0]
        for best in range(count - 1):
            apart = rated[:, best, None] - rated[:, best + 1 :]
            own = apart.max(-1) * means[:, best]
            among = jnp.concatenate([own[:, None], apart * means[:, best + 1 :]], axis=1)
            total = total + jax.nn.logsumexp(among, axis=1) - own
        return total


EXAMPLE = PRO(likelihood=0.05)
