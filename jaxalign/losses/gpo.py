"""GPO: general preference optimisation, self-play by scores of a preference model in place of win rates. Zhang et al.
2024 (arXiv 2410.02197), section 5.

    loss = Σ over the pair of ( log π/π_t(y) − S(y) / beta )²

S(y) is the mean score s(y ≻ y′) over answers y′ of π_t, the log-odds of a general preference model times its
temperature: `oracles.mean_log_odds` makes it of any oracle that compares. It is SPPO with log-odds for probabilities,
and where these are small both take the same step. The anchor is π_t itself: swap it every iteration.

The mean of S over π_t is 0, since s(y ≻ y′) = −s(y′ ≻ y), so that log Z of π_t exp(S / beta) is of second order in
1 / beta and is left out; to first order the minimiser over policies is that step.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class GPO:
    """Squared distance (nats²) of each log-ratio from its score over beta, summed over the pair."""

    beta: float = 1e-3
    """inverse of the step size, in the unit of the scores a nat, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return ((LogRatio()(logps) - logps.score / self.beta) ** 2).sum(-1)


EXAMPLE = GPO(beta=0.5)
