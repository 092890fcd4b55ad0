"""Self-play policy gradient: win rates as rewards. Swamy et al. 2024 (SPO, arXiv 2401.04056); with a KL to the anchor
it is Nash-MD's gradient (Munos et al. 2023, arXiv 2312.00886) where the opponent is the policy that sampled.

    loss = −1/r Σ_y sg( P(y ≻ π_last) − 1/2 − beta log π/π_anchor(y) ) log π(y)

over the r answers of a group; no gradient flows through what is in sg. On answers of the policy itself its gradient is
that of P(π ≻ π_last) − beta KL(π ‖ π_anchor), so a fit should be short: one pass over all answers (the pairing
`EveryAnswer`), not over those that a rule has picked. Self-play with a KL to a fixed anchor has the regularised Nash
policy as its fixed point (beta is its tau); without one the last iterate circles the Nash policy where that is mixed.
The paper's reward leaves an answer out of its own win rate: of m samples that is m / (m − 1) times the advantage. The
label is not read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from jaxalign.losses.parts.scores import LogRatio
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class SelfPlayGradient:
    """A surrogate (its value says nothing): descending it raises answers that win more than half."""

    beta: float = 0.0
    """weight of the KL to the anchor, in win rates a nat, >= 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int | None] = None

    def problems(self) -> Iterable[str]:
        if not self.beta >= 0:
            yield f"beta must not be negative, got {self.beta}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        advantage = logps.win - 0.5 - self.beta * LogRatio()(logps)
        return -(jax.lax.stop_gradient(advantage) * logps.sums).mean(-1)


EXAMPLE = SelfPlayGradient(beta=0.1)
