"""MODPO: one of several objectives trained by preference, the others kept by their rewards. Zhou et al. 2023 (arXiv
2310.03708).

    loss = −log σ( ( z − (1 − w) ( S(chosen) − S(rejected) ) ) / w )
    z    = beta ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) )

The label is of the objective of weight w; S, the answers' scores, are the rewards of the others together (for two
objectives r, for more their mean by weight). The policy is then that of the reward w r_label + (1 − w) S. Recorded
pairs get S from `data.comparisons.scored`, sampled ones from `oracles.label_and_rewards`. Where S is the implicit
reward of a DPO run of the same beta, the loss is that of DPO(beta / w) with Mixture(base=w, anchor=0, guides=(run,),
weights=(1 − w,)) as its reference: S is a difference of log-probs, and those of the guide are the anchor's part.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class MODPO:
    """Negative log-likelihood (nats) of the label under what the implicit reward is beyond the others' share of it."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    share: float = 0.5
    """w: weight of the label's objective, in (0, 1]; 1 is DPO"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        if not 0 < self.share <= 1:
            yield f"share must lie in (0, 1], got {self.share}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        rest = self.beta * LogRatio()(logps) - (1 - self.share) * logps.score
        return compared(logps, rest, Logistic(1 / self.share))


EXAMPLE = MODPO(beta=0.1, share=0.8)
