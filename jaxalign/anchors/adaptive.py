"""An anchor that moves when the inner problem is solved, as far as the policy's own answers tell.

COMAL (Liu et al. 2024, arXiv 2410.23223) asks that each regularised game is solved well enough before its solution
becomes the next anchor (Theorem 3: sufficient progress), and swaps after a fixed number of iterations. Here a test
takes the place of the number, as in `games.learners.adaptive_comal`: with μ the policy, a the anchor and BR(μ) the
regularised best response, the anchor becomes μ once

    KL(μ ‖ BR(μ)) <= accept · KL(μ ‖ a)

The left side is estimated from samples (`games.inner_gap`), so it gets the benefit of no doubt: `errors` standard
errors over the prompts are added. A round therefore is as long as it takes. Answers that were not sampled are not seen.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

ANCHOR = "align/anchor"
"""Name of the number of the policy that an iteration's certificates make the anchor of its fit."""


@dataclass(frozen=True)
class Adaptive:
    """Swaps the anchor when the corrected certificate says that the inner problem is solved."""

    accept: float = 0.1
    """what may be left of the inner problem, as a share of KL(policy ‖ anchor), in (0, 1)"""
    errors: float = 1.0
    """standard errors that are added to the estimate before it is compared, >= 0"""

    def problems(self) -> Iterable[str]:
        if not 0 < self.accept < 1:
            yield f"accept must lie in (0, 1), got {self.accept}"
        if not 0 <= self.errors < math.inf:
            yield f"errors must be at least 0, got {self.errors}"

    def solved(self, gap: float, error: float, moved: float) -> bool:
        """Whether the anchor moves: `gap` ± `error` is the estimated tau KL(μ ‖ BR(μ)), `moved` is tau KL(μ ‖ a).

        Where the policy has not moved from its anchor nothing is solved, however small the gap.
        """
        return moved > 0 and gap + self.errors * error <= self.accept * moved
