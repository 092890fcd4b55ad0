"""DPO under another divergence from the anchor than the reverse KL. Wang et al. 2023 (f-DPO, arXiv 2309.16240).

    loss = −log σ( beta ( f′(t(chosen)) − f′(t(rejected)) ) ),        t = π/π_anchor

`divergence` says which: ForwardKL(), JensenShannon(), AlphaDivergence(alpha).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.divergences import AlphaDivergence, ForwardKL, JensenShannon
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class FDPO:
    """Negative log-likelihood (nats) of the label under the Bradley–Terry model of the reward beta · f′(π/π_anchor)."""

    divergence: ForwardKL | JensenShannon | AlphaDivergence = JensenShannon()
    """what keeps the policy near the anchor"""
    beta: float = 0.1
    """its weight, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, self.divergence(logps), Logistic(self.beta))


EXAMPLE = FDPO(ForwardKL(), beta=0.1)
