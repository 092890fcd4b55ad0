"""DPO on mean log-ratios: length-normalised DPO. Lambert et al. 2024 (Tülu 3, arXiv 2411.15124); TRL's `sigmoid_norm`.

    loss = −log σ( beta ( [log π/π_anchor](chosen)/|chosen| − [log π/π_anchor](rejected)/|rejected| ) )

Per-token margins are small, so beta is larger than DPO's: Tülu 3 has 5.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import LogRatio, TokenMean
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class TokenMeanDPO:
    """Negative log-likelihood (nats) of the label, where an answer's reward is its mean log-ratio."""

    beta: float = 5.0
    """scale of the mean log-ratios, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, TokenMean(LogRatio())(logps), Logistic(self.beta))


EXAMPLE = TokenMeanDPO(beta=5.0)
