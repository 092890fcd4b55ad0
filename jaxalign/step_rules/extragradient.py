"""A step every two iterations: look ahead, ask there, step from where it began. Zhou et al. 2025 (EGPO, arXiv
2503.08942).

    half  ∝ π^(1 − step·tau) anchor^(step·tau) exp(step P(· ≻ π))           an even iteration
    π′    ∝ π^(1 − step·tau) anchor^(step·tau) exp(step P(· ≻ half))        the odd one behind it

In games that rotate, a step against where the opponent is turns outwards; against where it is about to be it does not,
so steps may be several times as large as those of mirror descent. The answers of an odd iteration are the look-ahead's,
and so are its win rates; parameters and `last` are those of π. Both need a loss whose minimiser is the step
(`losses.mirror`: INPO on i.i.d. pairs, or `WinRateRegression`), or fits of one gradient step on pairs of even weight,
which is the paper's algorithm (`pairings.even_pairs`). Policies of odd numbers are look-aheads.
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Extragradient:
    """From policy i, an even number, to policy i + 2, by what is said of the answers of policy i + 1."""

    period: ClassVar[int] = 2

    def origin(self, iteration: int) -> int:
        return iteration - iteration % 2


EXAMPLE = Extragradient()
