"""Robust DPO: unbiased under labels that are flipped at a known rate. Chowdhury et al. 2024 (arXiv 2403.00409).

    loss = [ −(1 − e) log σ(z) + e log σ(−z) ] / (1 − 2e),        e = flips
    z    = beta ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) )

Its expectation over the flips is DPO's loss of the true labels. A single pair's loss has no lower bound.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Robust
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class RobustDPO:
    """An unbiased estimate (nats) of DPO's loss of the labels before they were flipped."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    flips: float = 0.1
    """how often labels are wrong, in [0, 1/2)"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        return Robust(self.beta, self.flips).problems()

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, LogRatio()(logps), Robust(self.beta, self.flips))


EXAMPLE = RobustDPO(beta=0.1, flips=0.2)
