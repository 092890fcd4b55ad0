"""A weighted sum of one loss over annotators or objectives: with DPO that is DPO-LW, the linear baseline of Chen et al.
2026 (RACO, arXiv 2602.02495).

    loss = Σ_i w_i decided_i · loss(votes_i)

Each annotator labels the same pair with its own vote; one that is undecided, or absent, says nothing. The gradient is
that of `objectives.WeightedSum` at the price of a single backward pass, without what that one logs of each objective.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.group_size import PAIR, misfit
from jaxalign.losses.dpo import DPO
from jaxalign.losses.parts.votes import by_vote, weight_problems
from jaxalign.types import GroupLogps, Loss


@dataclass(frozen=True)
class WeightedVotes:
    """What `loss` is of each annotator's labels, weighed."""

    loss: Loss
    """a loss of pairs that reads labels: of one annotator alone there are no win rates and no scores"""
    weights: tuple[float, ...]
    """w: of the annotators, in their order, at least 0, not all of them 0; the paper's sum to 1"""

    @property
    def needs(self) -> tuple[str, ...]:
        """Those of the loss."""
        return self.loss.needs

    @property
    def extras(self) -> tuple[str, ...]:
        """Those of the loss."""
        return extras_of(self.loss)

    @property
    def annotators(self) -> int:
        """As many as there are weights."""
        return len(self.weights)

    def problems(self) -> Iterable[str]:
        yield from weight_problems(self.weights)
        if (reason := misfit(self.loss, PAIR)) is not None:
            yield f"{type(self.loss).__name__} {reason}"
        if "batch" in extras_of(self.loss):
            yield f"{type(self.loss).__name__} compares groups with one another, whoever leaves some out"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return by_vote(logps, self.weights, self.loss)


EXAMPLE = WeightedVotes(DPO(beta=0.2), (0.8, 0.2))
