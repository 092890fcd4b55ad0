"""SimPO: simple preference optimisation, by mean log-probs and without a reference. Meng et al. 2024 (arXiv
2405.14734), eq. 6.

    loss = −log σ( beta ( log π(chosen)/|chosen| − log π(rejected)/|rejected| ) − gamma )

Defaults are those of the paper's code for Mistral and Llama 3: gamma is `gamma_ratio` · beta.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import Logp, TokenMean
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class SimPO:
    """Negative log-likelihood (nats) of the label, where an answer's reward is its mean log-prob."""

    beta: float = 2.0
    """scale of the mean log-probs, > 0"""
    gamma_ratio: float = 0.5
    """gamma/beta: by how many nats a token the chosen answer should be ahead"""
    smoothing: float = 0.0
    """how often labels are taken to be wrong, in [0, 1/2)"""

    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def link(self) -> Logistic:
        """What becomes of the margin."""
        return Logistic(self.beta, self.gamma_ratio, self.smoothing)

    def problems(self) -> Iterable[str]:
        return self.link.problems()

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, TokenMean(Logp())(logps), self.link)


EXAMPLE = SimPO(beta=2.0, gamma_ratio=0.5)
