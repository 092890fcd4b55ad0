"""SPPO: self-play preference optimisation. Wu, Sun, Yuan, Ji, Yang & Gu 2024 (arXiv 2405.00675), eq. 4.4.

    loss = Σ over the pair of ( log π/π_anchor(y) − eta ( P̂(y ≻ π_t) − 1/2 ) )²

P̂(y ≻ π_t) is the response's mean win probability against the responses sampled with it. The anchor is π_t itself:
swap it every iteration. Notation is the paper's: `eta` is the step size (its code has beta = 1/eta = 1e-3).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class SPPO:
    """Squared distance (nats²) of each log-ratio from its win rate's share of eta, summed over the group."""

    eta: float = 1e3
    """step size, nats per unit of win probability, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        if not self.eta > 0:
            yield f"eta must be positive, got {self.eta}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        assert logps.anchor is not None
        return ((logps.sums - logps.anchor - self.eta * (logps.win - 0.5)) ** 2).sum(-1)


EXAMPLE = SPPO(eta=10.0)
