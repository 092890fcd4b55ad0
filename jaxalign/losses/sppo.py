"""SPPO: self-play preference optimisation. Wu, Sun, Yuan, Ji, Yang & Gu 2024 (arXiv 2405.00675), eqs. 4.4 and 4.7.

    loss = Σ over the pair of ( log π/π_anchor(y) − eta ( P̂(y ≻ π_t) − 1/2 ) )²

P̂(y ≻ π_t) is the response's mean win probability against the responses sampled with it; `SPPOHard` takes 1 for the
chosen and 0 for the rejected response. The anchor is π_t itself: swap it every iteration. Notation is the paper's:
`eta` is the step size (its code has beta = 1/eta = 1e-3).

1/2 stands for the log-normaliser, divided by eta, of π_t exp(eta P̂). To first order in eta its minimiser over policies
is therefore the step of multiplicative weights; at large eta it falls short: from (.2, .5, .3) in the three-action
game by .006 at 3 and .098 at 10 in total variation, where the step itself is .45.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.absolute_links import EachSquared
from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class SPPO:
    """Squared distance (nats²) of each log-ratio from its win rate's share of eta, summed over the group."""

    eta: float = 1e3
    """step size, nats per unit of win probability, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(eta=self.eta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return ((LogRatio()(logps) - self.eta * (logps.win - 0.5)) ** 2).sum(-1)


@dataclass(frozen=True)
class SPPOHard:
    """Squared distance (nats²) of the log-ratios from eta/2 for the chosen and −eta/2 for the rejected response."""

    eta: float = 1e3
    """step size, nats per unit of win probability, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(eta=self.eta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, LogRatio()(logps), EachSquared(self.eta))


EXAMPLES = (SPPO(eta=10.0), SPPOHard(eta=10.0))
