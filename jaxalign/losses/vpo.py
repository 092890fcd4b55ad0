"""VPO: value-incentivised preference optimisation, optimism or pessimism about the reward. Cen et al. 2024 (arXiv
2405.19320).

    loss = DPO + alpha beta [log π/π_anchor](chosen)

The reward model that DPO implies is regularised by the value J*(r) = −beta E_cal log π/π_anchor of its best policy,
where rewards are 0 on average over the calibrating answers: alpha > 0 favours rewards of a high value, to explore when
answers are sampled; alpha < 0 doubts them, for recorded pairs. The calibrating answers are the chosen ones, as the
paper has it for recorded pairs: alpha = −c/beta is DPO less c times the log-likelihood of the chosen answer (Liu et al.
2024, arXiv 2405.16436). Optimism about them makes chosen answers less likely; that about the anchor's own answers,
which explores, is `XPO`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.dpo import DPO
from jaxalign.losses.margins import expected_over_labels
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class VPO:
    """DPO's loss (nats) and a multiple of the implicit reward of the chosen answer."""

    alpha: float
    """weight of the value: above 0 optimism, for sampled answers; below, pessimism, for recorded pairs"""
    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        rewards = self.beta * LogRatio()(logps)
        return DPO(self.beta)(logps) + self.alpha * expected_over_labels(logps.prefer, rewards[:, 0], rewards[:, 1])


EXAMPLE = VPO(alpha=-0.1, beta=0.1)
