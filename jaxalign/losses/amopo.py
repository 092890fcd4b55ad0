"""AMoPO: several objectives by mean log-probs, without reward models and without a reference. Liu et al. 2025 (arXiv
2506.07165), with weights that stay as they are.

    loss = −Σ_i w_i decided_i log σ( beta log π(chosen_i)/|chosen_i| − beta log π(rejected_i)/|rejected_i| )

The chosen answer is that of objective i. This is the static form that RACO (arXiv 2602.02495) compares with: SimPO
without its margin, weighed over objectives; the paper's own weights are drawn anew from what the policy generates.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import Logp, TokenMean
from jaxalign.losses.parts.settings import positive
from jaxalign.losses.parts.votes import by_vote, weight_problems
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class AMoPO:
    """Negative log-likelihood (nats) of every objective's label, where an answer's reward is its mean log-prob."""

    weights: tuple[float, ...]
    """w: of the objectives, in their order, at least 0, not all of them 0; the paper's sum to 1"""
    beta: float = 0.8
    """scale of the mean log-probs, > 0; RACO's sweep ends between 0.1 and 0.8"""

    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def annotators(self) -> int:
        """As many as there are weights."""
        return len(self.weights)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        yield from weight_problems(self.weights)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        rewards = TokenMean(Logp())(logps)
        return by_vote(logps, self.weights, lambda alone: compared(alone, rewards, Logistic(self.beta)))


EXAMPLE = AMoPO((0.8, 0.2), beta=0.5)
