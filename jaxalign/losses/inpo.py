"""INPO: one mirror-descent step on the KL-regularised preference game, as a regression on pairs.

Zhang, Yu, Peng, Song, Yu, Huang & Mi 2024, "Iterative Nash Policy Optimization" (arXiv 2407.00617), eq. 7; the inner
solver of COMAL (arXiv 2410.23223), which swaps the anchor for the solution between rounds.

    h(y) = log π(y) − r log π_anchor(y) − (1 − r) log π_last(y),        r = tau / eta
    loss = (h(chosen) − h(rejected) − 1/(2 eta))²

Notation is INPO's: `eta` multiplies the KL to `last` (a large eta is a small step; COMAL's paper calls its inverse
eta), `tau` the KL to `anchor`. On pairs drawn i.i.d. from `last` the minimiser is exactly
π ∝ last^(1−r) anchor^r exp(P(· ≻ last)/eta); chosen-by-rank pairs give another policy.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.margins import margin
from jaxalign.losses.mirror import MirrorStep
from jaxalign.losses.regresses import expected, regressed
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class INPO:
    """Squared distance (nats²) of the regularised margin from 1/(2 eta), expected over the label."""

    eta: float
    """multiplier of the KL to the policy that sampled this iteration, > 0 (1/eta nats is the widest target step)"""
    tau: float
    """multiplier of the KL to the anchor, in [0, eta]"""

    needs: ClassVar[tuple[str, ...]] = ("last", "anchor")

    @property
    def mirror(self) -> MirrorStep:
        """What its minimiser on i.i.d. pairs is."""
        return MirrorStep(1 / self.eta, self.tau)

    @property
    def closing(self) -> "INPO":
        """π ∝ anchor exp(P(· ≻ last) / tau)."""
        return INPO(self.tau, self.tau)

    def problems(self) -> Iterable[str]:
        if not self.eta > 0:
            yield f"eta must be positive, got {self.eta}"
        elif not 0 <= self.tau <= self.eta:
            yield f"tau must lie in [0, eta] = [0, {self.eta}], got {self.tau}: tau/eta is the anchor's share"

    def margins(self, logps: GroupLogps) -> Float[Array, " b"]:
        """h(chosen) − h(rejected), nats."""
        return margin(regularised(logps, self.tau / self.eta))

    def wanted(self, logps: GroupLogps) -> Float[Array, " b"]:
        """1/(2 eta) nats of a certain label."""
        return expected(logps.prefer, 0.5 / self.eta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return regressed(self.margins(logps), logps.prefer, 0.5 / self.eta)


def regularised(logps: GroupLogps, ratio: float) -> Float[Array, "b r"]:
    """h: log π(y) less what it is drawn to, `ratio` of it the anchor's log-prob and the rest the last policy's."""
    assert logps.last is not None
    assert logps.anchor is not None
    return logps.sums - ratio * logps.anchor - (1 - ratio) * logps.last


EXAMPLE = INPO(eta=0.5, tau=0.2)
