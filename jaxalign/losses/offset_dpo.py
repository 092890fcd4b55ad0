"""ODPO: DPO with an offset, asking more where the answers' scores differ more. Amini, Vieira & Cotterell 2024 (arXiv
2402.10571).

    loss = −log σ( beta ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) ) − alpha ( S(chosen) − S(rejected) ) )

The paper's offset is alpha f(S(chosen) − S(rejected)) for an increasing f; here f is the difference itself. S are the
oracle's or the data's scores.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class OffsetDPO:
    """Negative log-likelihood (nats) of the label, where the implicit reward must beat the difference of scores."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    alpha: float = 1.0
    """nats of reward asked for a unit of score, >= 0; 0 is DPO"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        if not self.alpha >= 0:
            yield f"alpha must not be negative, got {self.alpha}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, self.beta * LogRatio()(logps) - self.alpha * logps.score, Logistic(1.0))


EXAMPLE = OffsetDPO(beta=0.1, alpha=0.5)
