"""A policy against a pool of opponents: its win rate against the worst of them, beside the mean.

    worst = min_μ win rate(π, μ),    mean = 1/k Σ_μ win rate(π, μ)            over the k policies μ of the pool

In a game whose preferences cycle a policy may beat its base and lose to an iterate between: against the worst of all
policies none does better than 1/2, and the Nash policy does as well. A pool is some of all policies, so what is found
is an upper bound of that.

The least of k estimates lies below the least of what they estimate, the more the closer these are. Its interval says
so:

    low = min_μ low_μ,    high = min_μ high_μ at the level that k opponents share (Bonferroni: a k-th of the misses)

The least true rate is that of one opponent, so `low` is above it only where this one's own is: no more often than for
a single opponent. `high` is below it as soon as any opponent's is, so all must hold together. Together the interval
holds as often as it says, however the opponents' rates depend on one another. (Not to be confused with the win rate of
k samples against any single answer, `games.universal`.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jaxalign.evals.context import HeldOut, opposing
from jaxalign.evals.intervals import LEVEL, Estimate, estimated
from jaxalign.evals.win_rate import between
from jaxalign.types import Metrics


@dataclass(frozen=True)
class RobustWinRate:
    """The evaluated policy against the policies before it, and those of other runs (`evaluation.others`).

    Metrics, in [0, 1]: `robust_win_rate/worst` and `robust_win_rate/mean`, each with its 95 % interval `…_ci95_low` and
    `…_ci95_high`, the mean with its standard error too; `robust_win_rate/vs_<name>` for each opponent. Nothing of a
    base without others. Each opponent is judged: k times what a win rate against one costs.
    """

    earlier: int = 8
    """policies of the run that oppose it at most: base, the one before, and others evenly between"""

    needs: ClassVar[tuple[str, ...]] = ("answers", "oracle")

    def problems(self) -> Iterable[str]:
        if self.earlier < 1:
            yield f"earlier must be at least 1, got {self.earlier}"

    def asks(self, names: Sequence[str], others: Sequence[str]) -> Iterable[tuple[str, ...]]:
        """About each of the pool."""
        return [(names[-1], each) for each in opposing(names, others, self.earlier)]

    def __call__(self, context: HeldOut) -> Metrics:
        names = opposing(context.names, context.others, self.earlier)
        if not names:
            return {}
        rates = np.stack([_rates(context, name) for name in names], 1)
        metrics = {f"robust_win_rate/vs_{name}": float(each.mean()) for name, each in zip(names, rates.T, strict=True)}
        metrics |= worst(rates).metrics("robust_win_rate/worst")
        return metrics | estimated(rates.mean(1)).metrics("robust_win_rate/mean")


def worst(rates: Float[np.ndarray, "b k"], level: float = LEVEL) -> Estimate:
    """The least mean of k columns, all in [0, 1] and of the same prompts; see the module's docstring. No standard
    error: the spread of the one that came out least is not that of the least."""
    opponents = rates.shape[1]
    alone = [estimated(each, level=level) for each in rates.T]
    together = [estimated(each, level=1 - (1 - level) / opponents) for each in rates.T]
    least = min(alone, key=lambda each: each.value)
    low, high = min(each.low for each in alone), min(each.high for each in together)
    return Estimate(least.value, None, low, high)


def _rates(context: HeldOut, name: str) -> Float[np.ndarray, " b"]:
    pair = (context.current, context.answers(name))
    return np.asarray(between(context.preferences(name).prefer, pair)[:, 0, 1])


EXAMPLE = RobustWinRate()
