"""ONPO's auxiliary policy as the anchor: the optimistic step without a second fit. Zhang et al. 2025 (ONPO, arXiv
2502.16852).

Optimistic mirror descent keeps a policy that accumulates, a, beside the one that plays, π:

    a′ ∝ a exp(step P(· ≻ π)),        π′ ∝ a′ exp(step P(· ≻ π)) ∝ a exp(2 step P(· ≻ π))

The paper fits both. The second says that exp(step P) ∝ (π′ / a)^(1/2), and so a′ ∝ (a π′)^(1/2): the auxiliary policy
is a geometric mean of all that have played, each weighing half as much as the next,

    log a_i = 1/2 log π_i + 1/4 log π_(i−1) + … + 2^−i log π_1 + 2^−i log π_0        (but for log Z)

With swap_every = 1, this reference and IPO(tau = 1 / (2 step)) on i.i.d. pairs, one fit an iteration is the step of
ONPO. Exact up to iteration `depth`; from then on the oldest that is read stands for those before it, whose log-ratio
between two answers is off by step · 2^(1 − depth) nats at most: log π − log a is step P(· ≻ ·), and P lies in [0, 1].
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jaxalign.references.cached import all_stored, none_live
from jaxalign.references.of_run import OfRun


@dataclass(frozen=True)
class Auxiliary:
    """The anchor is the geometric mean of the schedule's last anchors, each half as heavy as the one behind it;
    log-probs are stored."""

    depth: int = 8
    """policies that are read at most, >= 2: so many forward passes an iteration"""

    outside: ClassVar[tuple[OfRun, ...]] = ()
    scheduled: ClassVar[bool] = True
    normalised: ClassVar[bool] = False

    def problems(self) -> Iterable[str]:
        if self.depth < 2:
            yield f"depth must be at least 2, got {self.depth}"

    stored, live = all_stored, none_live

    def members(self, anchors: Sequence[int]) -> tuple[int, ...]:
        """The last `depth`."""
        return tuple(anchors[: self.depth])

    def blend(self, sums: Float[np.ndarray, "k g r"]) -> Float[np.ndarray, "g r"]:
        """Σ 2^−j of the j-th last, the oldest one's weight doubled so that they sum to 1."""
        weights = 0.5 ** np.arange(1, len(sums) + 1)
        weights[-1] *= 2
        found: Float[np.ndarray, "g r"] = np.einsum("k,kgr->gr", weights, sums)
        return found


EXAMPLE = Auxiliary(depth=3)
