"""Bradley–Terry: a reward for each answer, and preferences that follow from their differences.

    Δ = s(chosen) − s(rejected)
    loss = −p log σ(Δ − k m) − (1 − p) log σ(−Δ − k m) + c (s(chosen) + s(rejected))²

Bradley & Terry 1952; Ouyang et al. 2022 (arXiv 2203.02155), eq. 1. p is `prefer`: 1 for a hard label, between for a
soft one (its minimiser is Δ = log p/(1 − p)), 1/2 for a tie, which draws the two rewards together. The margin k m of
Touvron et al. 2023 (arXiv 2307.09288), eq. 2, is asked of whichever answer wins: under a soft label the winner is a
draw with probability p and wins by m, so both terms ask for it, and swapping the answers changes nothing. (A margin
that belonged to answer 0 alone, +k m in the second term, would move the minimiser by k m even at a tie.) c keeps
rewards, of which only differences count, near zero: Eisenstein et al. 2023 (arXiv 2312.09244).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from jaxalign.contracts.scores import GroupScores, agreement
from jaxalign.losses.margins import expected_over_labels, margin


@dataclass(frozen=True)
class BradleyTerry:
    """Negative log-likelihood (nats) of the label, of one output an answer."""

    margin: float = 0.0
    """k: nats that the winner's reward should be ahead for a unit of the label's margin, >= 0; 0 reads no margins"""
    centering: float = 0.0
    """c: weight of the squared sum of both rewards, >= 0"""

    needs: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterable[str]:
        for name, value in (("margin", self.margin), ("centering", self.centering)):
            if not value >= 0:
                yield f"{name} must not be negative, got {value}"

    def misfits(self, outputs: int, responses: int) -> Iterable[str]:
        if outputs != 1:
            yield f"reads one output, a reward, and there are {outputs}"
        if responses != 2:
            yield f"reads pairs, and groups are of {responses}"

    def log_odds(self, outputs: Float[Array, "b r o"]) -> Float[Array, " b"]:
        return margin(outputs[..., 0])

    def ranks(self, outputs: Float[Array, "b r o"]) -> Float[Array, "b r"]:
        return outputs[..., 0]

    def accuracies(self, scores: GroupScores) -> Float[Array, " b"]:
        return agreement(self.log_odds(scores.outputs), scores.prefer)

    def __call__(self, scores: GroupScores) -> Float[Array, " b"]:
        ahead, asked = self.log_odds(scores.outputs), self.margin * scores.margin if self.margin else 0.0
        as_labelled, flipped = jax.nn.log_sigmoid(ahead - asked), jax.nn.log_sigmoid(-ahead - asked)
        label = expected_over_labels(scores.prefer, -as_labelled, -flipped)
        return label + self.centering * scores.outputs[..., 0].sum(-1) ** 2


EXAMPLE = BradleyTerry(margin=1.0, centering=0.01)
