"""AlphaPO: SimPO with another shape of the reward. Gupta et al. 2025 (arXiv 2501.03884).

    loss = −log σ( beta ( R(chosen) − R(rejected) ) − gamma )
    R(y) = ( 1 − P(y)^−alpha ) / alpha,        log P(y) = log π(y)/|y|

alpha → 0 is SimPO; above, the gradient grows where answers are unlikely, below, where they are likely. gamma is
`gamma_ratio` · beta.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import PowerMean
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class AlphaPO:
    """Negative log-likelihood (nats) of the label, where an answer's reward is a power of its mean probability."""

    alpha: float = 0.25
    """shape of the reward, other than 0"""
    beta: float = 2.0
    """scale of the reward, > 0"""
    gamma_ratio: float = 0.5
    """gamma/beta: by how much the chosen answer should be ahead"""

    needs: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterable[str]:
        yield from PowerMean(self.alpha).problems()
        yield from Logistic(self.beta).problems()

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, PowerMean(self.alpha)(logps), Logistic(self.beta, self.gamma_ratio))


EXAMPLE = AlphaPO(alpha=0.25)
