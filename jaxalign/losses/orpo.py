"""ORPO: odds ratio preference optimisation, fine-tuning and preferences at once. Hong et al. 2024 (arXiv 2403.07691),
eqs. 4 and 7.

    loss = −log π(chosen)/|chosen| − lambda log σ( log odds(chosen) − log odds(rejected) )
    odds(y) = P(y) / (1 − P(y)),        log P(y) = log π(y)/|y|

TRL takes the likelihood's mean over all tokens of a batch, prompts among them unless told otherwise; here it is over
each chosen answer's own tokens, so that an answer weighs the same whatever it is batched with.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.likelihood import Likelihood
from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import LogOdds
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class ORPO:
    """Negative log-likelihood (nats a token) of the chosen answer, and that of the label by the odds ratio."""

    weight: float = 0.1
    """lambda: of the odds ratio, >= 0 (TRL's beta)"""

    needs: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterable[str]:
        if not self.weight >= 0:
            yield f"weight must not be negative, got {self.weight}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return Likelihood()(logps) + self.weight * compared(logps, LogOdds()(logps), Logistic(1.0))


EXAMPLE = ORPO(weight=0.1)
