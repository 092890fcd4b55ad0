"""IPO: identity preference optimisation. Azar et al. 2023 (arXiv 2310.12036), eq. 17.

    loss = ( s(chosen) − s(rejected) − 1/(2 tau) )²

`IPO` sums log-probs over tokens, s = log π/π_anchor(y), as COMAL's released code and OpenRLHF do; `TokenMeanIPO`
divides each by its answer's tokens, s = log π/π_anchor(y) / |y|, as TRL does (after asking the authors). With the
anchor swapped every iteration the first is iterative IPO: on i.i.d. pairs multiplicative weights on the unregularised
game, whose last iterate circles the Nash policy where that is mixed (COMAL, arXiv 2410.23223).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.margins import margin
from jaxalign.losses.parts.scores import LogRatio, TokenMean
from jaxalign.losses.parts.settings import positive
from jaxalign.losses.regresses import expected, regressed
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class IPO:
    """Squared distance (nats²) of the log-ratio margin from 1/(2 tau), expected over the label."""

    tau: float
    """multiplier of the KL to the anchor, > 0 (the released COMAL code calls it eta)"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(tau=self.tau)

    def margins(self, logps: GroupLogps) -> Float[Array, " b"]:
        """log π/π_anchor of the chosen answer less that of the rejected one, nats."""
        return margin(LogRatio()(logps))

    def wanted(self, logps: GroupLogps) -> Float[Array, " b"]:
        """1/(2 tau) nats of a certain label."""
        return expected(logps.prefer, 0.5 / self.tau)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return regressed(self.margins(logps), logps.prefer, 0.5 / self.tau)


@dataclass(frozen=True)
class TokenMeanIPO:
    """Squared distance (nats² a token²) of the margin between mean log-ratios from 1/(2 tau)."""

    tau: float = 0.1
    """half the inverse of the margin that is asked for, nats a token, > 0 (TRL's beta)"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(tau=self.tau)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return regressed(margin(TokenMean(LogRatio())(logps)), logps.prefer, 0.5 / self.tau)


EXAMPLES = (IPO(tau=0.5), TokenMeanIPO(tau=0.5))
