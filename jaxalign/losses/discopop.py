"""DiscoPOP: the loss that a language model discovered. Lu et al. 2024 (arXiv 2406.08414), eq. 5.

    loss = −(1 − m) log σ(z) + m e^−z,        m = σ(z / tau)
    z    = beta ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) )

It is not convex: for a small tau it has a local minimum a little left of z = 0 and rises from there to a little right
of it, so at the anchor itself a descent widens no margin; the fit's noise must carry it over.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Modulated
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class DiscoPOP:
    """Log-ratio modulated: logistic where the label is missed, exponential where it is met."""

    beta: float = 0.05
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    tau: float = 0.05
    """how fast one branch gives way to the other, in (0, 1)"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        return Modulated(self.beta, self.tau).problems()

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, LogRatio()(logps), Modulated(self.beta, self.tau))


EXAMPLE = DiscoPOP(beta=0.05, tau=0.05)
