"""CPO: contrastive preference optimisation, DPO with a uniform reference. Xu et al. 2024 (arXiv 2401.08417).

    loss = −log σ( beta ( log π(chosen) − log π(rejected) ) ) − alpha log π(chosen)/|chosen|

The likelihood is over each chosen answer's own tokens; TRL's is over the tokens of a batch, its prompts among them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.likelihood import Likelihood
from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import Logp
from jaxalign.losses.parts.settings import positive, within
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class CPO:
    """Negative log-likelihood (nats) of the label by log-probs alone, and that of the chosen answer."""

    beta: float = 0.1
    """scale of the log-probs, > 0"""
    alpha: float = 1.0
    """weight of the chosen answer's likelihood, >= 0"""
    smoothing: float = 0.0
    """how often labels are taken to be wrong, in [0, 1/2)"""

    needs: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        yield from within(0.0, 0.5, smoothing=self.smoothing)
        if not self.alpha >= 0:
            yield f"alpha must not be negative, got {self.alpha}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        contrast = compared(logps, Logp()(logps), Logistic(self.beta, smoothing=self.smoothing))
        return contrast + self.alpha * Likelihood()(logps)


EXAMPLE = CPO(beta=0.1)
