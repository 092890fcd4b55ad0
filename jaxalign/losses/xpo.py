"""XPO: exploratory preference optimisation. Xie et al. 2024 (arXiv 2405.21046), algorithm 1.

    loss = −log σ( beta ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) ) ) + alpha [log π/π_anchor](z)

z is the anchor's answer of the pair (`pairings.against_anchor`). Making it less likely is optimism: the implicit reward
of what the anchor would say is taken to be low, so that of what it would not may be high, and the policy explores. The
paper has log π(z), which differs by what does not depend on π. Its theorem is of the Bradley–Terry model, of alpha
that falls with the number of rounds, and of the pairs of all rounds together; here a fit sees those of its iteration.

The second term has no lower bound of its own: with an alpha that is large beside beta the loss falls without end.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.contracts.pairing import Third
from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class XPO:
    """DPO's loss (nats) of a pair of the policy's answer and its anchor's, and `alpha` times the log-ratio of the
    latter."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    alpha: float = 1e-3
    """weight of the optimism, >= 0; 0 is DPO"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int | None] = 3
    third: ClassVar[Third] = "anchor"

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        if not self.alpha >= 0:
            yield f"alpha must be at least 0, got {self.alpha}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        ratios = LogRatio()(logps)
        return compared(logps, ratios, Logistic(self.beta)) + self.alpha * ratios[:, 2]


EXAMPLE = XPO(beta=0.1, alpha=0.01)
