"""Means of something bounded over prompts, with intervals that hold near the bounds too, and for few prompts.

    centre ± t · s / sqrt(n + 2),    centre and s of the n prompts and of two more: one at each bound

The prompts drawn are all that is sampled here: those of one prompt are not independent, its mean is one draw. What no
drawn prompt has shown may still happen to the next, and the two that are added say how much: of n prompts all won, the
interval ends at about 1 − 3/n, as it does by the rule of three. This is what Agresti & Caffo 2000 do for shares (one
success and one failure more: Laplace's rule of succession), with the spread of the values in place of p(1 − p), so
that several answers a prompt make the interval shorter. t is Student's, of n + 1 degrees of freedom. Percentile
bootstraps and plain t intervals have width 0 where all values agree: of 8 prompts with a coin of 0.95 they cover a
third of the time. Where prompts differ little the two cost width: 5.7 points in place of Student's 3.7 of 64 prompts
with six answers each. Less does not hold: with half a prompt at each bound, a 3 % that loses everything is missed by 15
of 100 such intervals; Student's interval, widened to the rule of three's ends, misses a 2 % that wins everything in 8
of 100 of 200 prompts. Coverage beside other intervals: `BENCHMARKS.md`, made by tests/goldens/make_coverage.py.
"""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from jaxalign.types import Metrics

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts, its standard error (None of a single prompt), and the ends of its interval."""

    value: float
    stderr: float | None
    low: float
    high: float

    def metrics(self, name: str) -> Metrics:
        """`name`, `name_stderr`, `name_ci95_low`, `name_ci95_high`."""
        spread = {} if self.stderr is None else {f"{name}_stderr": self.stderr}
        return {name: self.value, **spread, f"{name}_ci95_low": self.low, f"{name}_ci95_high": self.high}


@dataclass(frozen=True)
class ByPrompt:
    """A mean as a number a prompt, and how many prompts that count alike have a mean that varies as little."""

    values: Float[np.ndarray, " b"]
    effective: float


BESIDE = ("_stderr", "_ci95_low", "_ci95_high")
"""What stands behind a metric's name in those of its error and of its interval."""


def beside(name: str, metrics: Container[str]) -> bool:
    """Whether `name` is the error, or an end of the interval, of another of the metrics."""
    return any(name.endswith(end) and name.removesuffix(end) in metrics for end in BESIDE)


@dataclass(frozen=True)
class Named:
    """A metric as it is told: with its standard error and the ends of its interval, where it has them."""

    name: str
    value: float
    stderr: float | None
    low: float | None
    high: float | None


def named(metrics: Metrics) -> list[Named]:
    """Metrics by their names, those that are errors and ends of others beside these."""
    return [
        Named(name, value, *(metrics.get(f"{name}{end}") for end in BESIDE))
        for name, value in sorted(metrics.items())
        if not beside(name, metrics)
    ]


def told(metrics: Metrics) -> str:
    """A line for each metric, with its interval, or else its standard error, beside it."""
    return "\n".join(f"  {each.name:<40} {each.value:.4g}{_spread(each)}" for each in named(metrics))


def _spread(each: Named) -> str:
    if each.low is not None:
        return f"  [{each.low:.4g}, {each.high:.4g}]"
    return f"  ± {each.stderr:.2g}" if each.stderr is not None else ""


EVEN = Estimate(0.5, 0.0, 0.5, 0.5)
"""The win rate of a policy against itself: known, not estimated."""


def estimated(
    values: Float[np.ndarray, " b"],
    share: Float[np.ndarray, " b"] | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    level: float = LEVEL,
) -> Estimate:
    """The mean of prompts' `values`, each within the bounds, that count as `share` says (None: alike; not all 0).

    Where shares differ it is a ratio, whose error is that of its linearisation; n is the number of prompts of equal
    shares that vary as little: (Σ share)² / Σ share².
    """
    values = values.astype(np.float64)
    share = np.ones(len(values)) if share is None else share.astype(np.float64)
    there = share > 0
    values, share = values[there], share[there]
    prompts = effective(share)
    value, stderr = _mean(values, share)
    bound = share.sum() / prompts
    centre, error = _mean(np.append(values, bounds), np.append(share, [bound, bound]))
    assert error is not None
    half = float(stdtrit(prompts + 1, (1 + level) / 2)) * error
    return Estimate(value, stderr, max(centre - half, bounds[0]), min(centre + half, bounds[1]))


def effective(share: Float[np.ndarray, " b"]) -> float:
    """How many equal shares have a mean that varies as little."""
    return float(share.sum() ** 2 / (share**2).sum())


def _mean(values: Float[np.ndarray, " b"], share: Float[np.ndarray, " b"]) -> tuple[float, float | None]:
    """Mean and standard error, which a single prompt does not have."""
    whole, size = share.sum(), effective(share)
    mean = float(share @ values / whole)
    if len(values) < 2:
        return mean, None
    squares = ((share * (values - mean)) ** 2).sum()
    return mean, float(np.sqrt(squares * size / (size - 1)) / whole)
