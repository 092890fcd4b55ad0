"""INPO's step on win rates: the regression that online IPO and EGPO make on the policy's own answers. Zhou et al. 2025
(EGPO, arXiv 2503.08942), with the policy that sampled as the opponent.

    h(y) = log π(y) − r log π_anchor(y) − (1 − r) log π_last(y),        r = tau / eta
    loss = ( h(0) − h(1) − ( P(0 ≻ π_last) − P(1 ≻ π_last) ) / eta )²

Where INPO's target is what one comparison said, this one's is the mean over all answers sampled beside the two: on
pairs from the policy both have the minimiser π ∝ last^(1−r) anchor^r exp(P(· ≻ last)/eta), and this one less noise;
and it has it on pairs of any other law that meets all answers, since win rates are those of the policy there too.
With tau = eta it is online IPO 1, against the anchor alone: a step of gradient descent on pairs of even weight
(`pairings.even_pairs`) is one of mirror descent, and the whole way would be to the best response. (Online IPO 2 is
`IPO` with the anchor kept, on the policy's own pairs.) The label is not read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.inpo import INPO, regularised
from jaxalign.losses.margins import margin
from jaxalign.losses.mirror import MirrorStep
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class WinRateRegression:
    """Squared distance (nats²) of the regularised margin from the difference of win rates over eta."""

    eta: float
    """multiplier of the KL to the policy that sampled this iteration, > 0"""
    tau: float
    """multiplier of the KL to the anchor, in [0, eta]"""

    needs: ClassVar[tuple[str, ...]] = ("last", "anchor")

    @property
    def mirror(self) -> MirrorStep:
        """What its minimiser on i.i.d. pairs is: INPO's."""
        return MirrorStep(1 / self.eta, self.tau)

    @property
    def closing(self) -> "WinRateRegression":
        """π ∝ anchor exp(P(· ≻ last) / tau)."""
        return WinRateRegression(self.tau, self.tau)

    def problems(self) -> Iterable[str]:
        return INPO(self.eta, self.tau).problems()

    def margins(self, logps: GroupLogps) -> Float[Array, " b"]:
        """INPO's, nats."""
        return margin(regularised(logps, self.tau / self.eta))

    def wanted(self, logps: GroupLogps) -> Float[Array, " b"]:
        """The difference of win rates over eta, nats."""
        return margin(logps.win) / self.eta

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return (self.margins(logps) - self.wanted(logps)) ** 2


EXAMPLE = WinRateRegression(eta=0.5, tau=0.2)
