"""WPO: weighted preference optimisation, pairs by how likely the policy is to say them. Zhou et al. 2024 (arXiv
2406.11827), eq. 2.

    loss = w(chosen) w(rejected) · DPO
    w(y) = exp( 1/|y| Σ_t [ log π(y_t) − log Σ_v π(v)² ] ),        no gradient flows through it

Pairs that another model wrote count as if they were on-policy. The paper's code bounds the product by 1 and TRL does
not. Needs log Σ_v π(v)² at each token, which the pass over the vocabulary makes beside the log-prob.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.dpo import DPO
from jaxalign.losses.parts.settings import positive
from jaxalign.losses.parts.weights import OnPolicy
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class WPO:
    """DPO's loss (nats), weighted."""

    beta: float = 0.01
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    most: float | None = 1.0
    """upper bound of a pair's weight, > 0; None: none"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = ("log_sum_p2",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        yield from OnPolicy(self.most).problems()

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return OnPolicy(self.most)(logps) * DPO(self.beta)(logps)


EXAMPLE = WPO(beta=0.1)
