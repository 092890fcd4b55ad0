"""DPO: direct preference optimisation. Rafailov et al. 2023 (arXiv 2305.18290), eq. 7.

    loss = −log σ( beta ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) ) )

An uncertain label gives conservative DPO (Mitchell 2023): the two orders weighted by `prefer`; `smoothing` doubts every
label as much. With the anchor swapped every iteration this is iterative DPO (Xiong et al. 2024, arXiv 2312.11456).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive, within
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class DPO:
    """Negative log-likelihood (nats) of the label under the Bradley–Terry model of the implicit reward."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    smoothing: float = 0.0
    """how often labels are taken to be wrong, in [0, 1/2)"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        yield from within(0.0, 0.5, smoothing=self.smoothing)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, LogRatio()(logps), Logistic(self.beta, smoothing=self.smoothing))


EXAMPLE = DPO(beta=0.1)
