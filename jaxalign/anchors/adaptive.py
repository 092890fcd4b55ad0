"""An anchor that moves when the inner problem is solved, as far as the policy's own answers tell.

COMAL (Liu et al. 2024, arXiv 2410.23223) asks that each regularised game is solved well enough before its solution
becomes the next anchor (Theorem 3: sufficient progress), and swaps after a fixed number of iterations. Here a test
takes the place of the number, as in `games.learners.adaptive_comal`. With μ the policy, a the anchor and BR(μ) the
regularised best response, every Nash policy π* of a matrix game has

    KL(π* ‖ a) - KL(π* ‖ BR(μ)) >= KL(μ ‖ a) - KL(μ ‖ BR(μ))

so once KL(μ ‖ BR(μ)) <= accept · KL(μ ‖ a), moving the anchor to BR(μ) brings it closer to all of them, for any accept
below 1. To μ itself would not do: a few steps of a rotation can end with a small gap in a place from which rounds
spiral out. BR(μ) is what the fit makes whose loss has the whole step to it as its minimiser (`losses.mirror.Closing`:
INPO with eta = tau), on the same answers of μ; the policy it ends with is the next anchor.

The closing fit asks for margins up to 1/(2 tau) nats, eta/tau times those of the other fits, of which nearly all is
there already: it wants soft labels, and enough pairs and steps to average what is left.

The left side of the test is estimated from samples (`games.inner_gap`), and `errors` standard errors over the prompts
are added. A round takes as long as it takes. What was not sampled is not seen: of few samples a prompt the estimate can
be far too small where an answer that is rarely given beats the others.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

NEXT = "align/next_anchor"
"""Name, among an iteration's certificates, of the number of the next one's anchor: its own anchor's, or that of the
policy that it is about to make."""


@dataclass(frozen=True)
class Adaptive:
    """Closes a round, and swaps the anchor, when the corrected certificate says that the inner problem is solved."""

    accept: float = 0.5
    """what may be left of the inner problem, as a share of KL(policy ‖ anchor), in (0, 1)"""
    errors: float = 1.0
    """standard errors that are added to the estimate before it is compared, >= 0"""

    def problems(self) -> Iterable[str]:
        if not 0 < self.accept < 1:
            yield f"accept must lie in (0, 1), got {self.accept}"
        if not 0 <= self.errors < math.inf:
            yield f"errors must be at least 0, got {self.errors}"

    def solved(self, gap: float, error: float, moved: float) -> bool:
        """Whether the round is closed: `gap` ± `error` is the estimated tau KL(μ ‖ BR(μ)), `moved` is tau KL(μ ‖ a).

        Where the policy has not moved from its anchor nothing is solved, however small the gap.
        """
        return moved > 0 and gap + self.errors * error <= self.accept * moved
