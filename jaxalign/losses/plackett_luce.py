"""DPO on rankings: the Plackett–Luce model of the implicit reward. Rafailov et al. 2023 (arXiv 2305.18290), app. A.3.

    loss = −Σ_k log( e^r_(k) / Σ_{j ≥ k} e^r_(j) ),        r = beta log π/π_anchor(y)

r_(k) is that of the k-th best of the K answers of a group. Of two answers it is DPO. Answers of equal ratings have no
order: they count in the order in which they stand, so ratings should tell answers apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from jaxalign.losses.parts.ratings import By, best_first, ratings
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class PlackettLuce:
    """Negative log-likelihood (nats) of the ranking."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    by: By = "score"
    """what ranks answers"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int | None] = None

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        rewards = best_first(ratings(logps, self.by), self.beta * LogRatio()(logps))
        among = jax.lax.cumlogsumexp(rewards, axis=1, reverse=True)
        return (among - rewards).sum(-1)


EXAMPLE = PlackettLuce(beta=0.1)
