"""Hinge: sequence likelihood calibration with a reference. Zhao et al. 2023 (SLiC-HF, arXiv 2305.10425), with the
log-ratio in place of the log-prob as Liu et al. 2023 (RSO, arXiv 2309.06657) have it.

    loss = max( 0, 1 − beta ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) ) )

Pairs that are 1/beta nats apart have no gradient.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Hinge
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class HingePO:
    """What the scaled margin lacks to 1."""

    beta: float = 0.1
    """scale of the margin, > 0: 1/beta nats are asked for"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, LogRatio()(logps), Hinge(self.beta))


EXAMPLE = HingePO(beta=0.1)
