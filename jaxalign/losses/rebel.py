"""REBEL: regression to relative rewards, a policy-gradient step as least squares. Gao et al. 2024 (arXiv 2404.16767).

    loss = ( 1/eta ( [log π/π_last](0) − [log π/π_last](1) ) − ( S(0) − S(1) ) )²

S are scores of the oracle, in its unit; `last` is the policy that sampled both answers, and on its own pairs the
minimiser is π ∝ π_last exp(eta S). The label is not read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.margins import margin
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class REBEL:
    """Squared distance (score²) of the implicit reward's difference from that of the scores."""

    eta: float = 1.0
    """step size, nats for a unit of score, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("last",)

    def problems(self) -> Iterable[str]:
        yield from positive(eta=self.eta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return margin(LogRatio("last")(logps) / self.eta - logps.score) ** 2


EXAMPLE = REBEL(eta=2.0)
