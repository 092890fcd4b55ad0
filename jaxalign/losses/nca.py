"""NCA: noise contrastive alignment, which keeps the chosen answer likely. Chen et al. 2024 (arXiv 2402.05369).

    loss = −log σ(r_w) − ½ log σ(−r_w) − ½ log σ(−r_l),        r = beta log π/π_anchor(y)

The form for pairs: of K = 2 answers, the chosen one with certainty.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.absolute_links import NoiseContrastive
from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class NCA:
    """Negative log-likelihood (nats) of telling each answer from what the anchor says."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, LogRatio()(logps), NoiseContrastive(self.beta))


EXAMPLE = NCA(beta=0.1)
