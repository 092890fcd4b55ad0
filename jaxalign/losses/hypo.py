"""HyPO: hybrid preference optimisation, pairs of the reference and the KL of the policy's own answers. Song et al. 2024
(arXiv 2406.01462).

    loss = DPO of the pair + kl · sg( ρ(y) ) log π(y),        ρ = log π/π_anchor

y is an answer of the policy, beside a pair that another policy gave (`pairings.anchor_pairs`); no gradient flows
through what is in sg. In expectation over the policy the second term has the gradient of kl · KL(π ‖ π_anchor), so that
the policy stays near the anchor also where no pair is: DPO alone says nothing of answers that its pairs do not have.
The value of that term says nothing. The gradient is that of the policy that answered, so a fit should be short; the
paper's code takes its mean over other answers off ρ, which changes no expectation.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from jaxalign.contracts.pairing import Third
from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class HyPO:
    """DPO's loss (nats) of a pair, and a surrogate of the KL on the policy's own answer."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    kl: float = 1e-3
    """weight of the KL (the paper's lambda), >= 0; 0 is DPO"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int | None] = 3
    third: ClassVar[Third] = "policy"

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        if not self.kl >= 0:
            yield f"kl must not be negative, got {self.kl}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        ratios = LogRatio()(logps)
        own = jax.lax.stop_gradient(ratios[:, 2]) * logps.sums[:, 2]
        return compared(logps, ratios, Logistic(self.beta)) + self.kl * own


EXAMPLE = HyPO(beta=0.1, kl=0.01)
