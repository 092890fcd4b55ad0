"""An anchor with momentum: beyond the last solution, in the direction from the one before. He et al. 2024 (accelerated
preference optimisation, arXiv 2410.06293).

    anchor ∝ s (s / s₋₁)^momentum

s is the policy that `swap_every` makes the anchor and s₋₁ the one that was it before; until the first swap both are the
base. The paper extrapolates iterative DPO and SPPO on transitive preferences, where exact rounds converge the faster
the more momentum they have. In a game that rotates with frequency omega a round multiplies the distance to the Nash
policy by the larger root of

    z² − rho (1 + momentum) z + rho momentum = 0,        rho = tau / (tau − i omega)

which is outside of the unit circle for slow rotations once momentum is 1/3 or more, however well each round is solved:
such settings are refused. Below, momentum settles every game that COMAL does, and is no gain where games rotate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jaxalign.references.cached import all_stored, none_live
from jaxalign.references.of_run import OfRun

SETTLES = 1 / 3
"""Momentum from which on slow rotations grow."""


@dataclass(frozen=True)
class Momentum:
    """The anchor is extrapolated from the last two of the schedule; log-probs are stored."""

    momentum: float = 0.3
    """how far beyond the last solution, in (0, 1/3), as a share of the way from the one before"""

    outside: ClassVar[tuple[OfRun, ...]] = ()
    scheduled: ClassVar[bool] = True
    normalised: ClassVar[bool] = False

    def problems(self) -> Iterable[str]:
        if not 0 < self.momentum < SETTLES:
            yield (
                f"momentum must lie in (0, 1/3), got {self.momentum}: from 1/3 on slow rotations of a cyclic game grow "
                "from round to round however well each is solved"
            )

    stored, live = all_stored, none_live

    def members(self, anchors: Sequence[int]) -> tuple[int, ...]:
        """The last two."""
        return tuple(anchors[:2])

    def blend(self, sums: Float[np.ndarray, "k g r"]) -> Float[np.ndarray, "g r"]:
        """(1 + momentum) log s − momentum log s₋₁."""
        return sums[0] + self.momentum * (sums[0] - sums[-1])


EXAMPLE = Momentum(momentum=0.2)
