"""EXO on preferences: the reverse KL to the label, which DPO has forward. Ji et al. 2024 (arXiv 2402.00856), eq. 16.

    loss = KL( p_θ ‖ (1 − e, e) ),        p_θ = (σ(z), σ(−z))
    z    = beta ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) )

It is least, 0, where the margin z is log (1 − e)/e, and turns back beyond.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import ReverseCrossEntropy
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class EXO:
    """KL (nats) from the implicit preference to a label that leaves the rejected answer a little."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    smoothing: float = 1e-3
    """e: probability left to the rejected answer, in (0, 1/2)"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        return ReverseCrossEntropy(self.beta, self.smoothing).problems()

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, LogRatio()(logps), ReverseCrossEntropy(self.beta, self.smoothing))


EXAMPLE = EXO(beta=0.1)
