"""Means over seeds and prompts that cross: the policies of all seeds answer the same prompts.

    y_sx = μ + a_s + b_x + c_sx
    centre ± √(t²_{S−1} var(ȳ_s) / S + t²_{n−1} var(ȳ_x) / n)

ȳ_s are the means of the S seeds, ȳ_x those of the n prompts, t Student's. Another seed would train another policy and
draw other answers; another set of prompts would be harder or easier for all of them. The half widths of both add as
squares: the interval is of the mean over seeds and prompts like these, not of these three policies or these prompts.
What is of a seed and a prompt together (c) is in both and counted twice, so it errs towards width. An interval over the
means of seeds that share their prompts, taken as if these were all there is, holds from 20 % to 95 % of the time where
it says 95 % (tests/test_crossed.py).

To values within bounds two prompts more are added, one at each bound for all seeds, as in `evals.intervals`, so that
the interval has a width where all agree; of a single seed it is the one of `evals.intervals` to the digit where prompts
count alike. Where they count by their pairs (`evals.comparable`) values are linearised, n is the number of prompts that
count alike and vary as little, and the two weigh as one of these each: of a single seed that is the interval of
`evals.intervals` within a few per cent of its width.

Differences of two such values lie far from their bounds, and no prompts are added. Their n is that of the arm whose
prompts count less alike: var(ȳ_x) is the mean square times n/(n − 1), and t has n − 1 degrees of freedom. Taken as if
prompts counted alike, an interval of 16 prompts that count as 6.5 do holds 88 % of the time (tests/test_crossed.py);
where the two arms count the same prompts alike it holds 93 %, where they count others it errs towards width.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from jaxalign.evals.intervals import LEVEL, Estimate

ROUNDING = 1e-9
"""Of the largest value, and of 1e-3: by less than this values do not differ."""


def crossed(
    table: Float[np.ndarray, "s b"],
    bounds: tuple[float, float] | None = (0.0, 1.0),
    level: float = LEVEL,
    effective: float | None = None,
) -> Estimate:
    """The mean of values within `bounds` (None: of values that have none), seeds along the rows and prompts along the
    columns. `effective` prompts that count alike have a mean that varies as little, None: as many as there are; without
    bounds they must be more than one."""
    seeds, prompts = table.shape
    by_seed, by_prompt, mean = table.mean(1), table.mean(0), float(table.mean())
    count = float(prompts) if effective is None else effective
    variances = _of_mean(by_seed), _of_mean(by_prompt, count)
    stderr = float(np.sqrt(sum(variances))) if count > 1 else None
    if bounds is None:
        half = _half(variances, (seeds - 1, count - 1), level)
        return Estimate(mean, stderr, mean - half, mean + half)
    ends = np.array(bounds)
    centre = (count * mean + ends.sum()) / (count + 2)
    squares = float(((by_prompt - centre) ** 2).sum() * (count / prompts) ** 2 + ((ends - centre) ** 2).sum())
    variances = _of_mean(by_seed * count / (count + 2)), squares / ((count + 1) * (count + 2))
    half = _half(variances, (seeds - 1, count + 1), level)
    return Estimate(mean, stderr, max(centre - half, bounds[0]), min(centre + half, bounds[1]))


def over_seeds(values: Sequence[float], level: float = LEVEL) -> Estimate | None:
    """The mean over seeds of what each seed measured, with Student's interval; None of a single seed, and of seeds that
    agree to rounding (of two that count answers): of how they vary nothing was seen, and no width would mean anything.

    It covers what the seeds drew each for itself. What they share (the same held-out prompts) it takes as given.
    """
    table = np.array(values, np.float64)
    if len(table) < 2 or np.ptp(table) <= ROUNDING * max(np.abs(table).max(), 1e-3):
        return None
    variance = float(table.var(ddof=1)) / len(table)
    half, mean = _half((variance,), (len(table) - 1,), level), float(table.mean())
    return Estimate(mean, variance**0.5, mean - half, mean + half)


def _of_mean(values: Float[np.ndarray, " n"], count: float | None = None) -> float:
    """The variance of their mean, of `count` that count alike; of a single one there is nothing to be seen."""
    n = float(len(values)) if count is None else count
    return float(values.var()) / len(values) * n / (n - 1) if n > 1 else 0.0


def _half(variances: Sequence[float], degrees: Sequence[float | int], level: float) -> float:
    """Half the width of an interval that holds the means of all parts together, each with its own Student's t."""
    parts = zip(variances, degrees, strict=True)
    return float(np.sqrt(sum(stdtrit(of, (1 + level) / 2) ** 2 * each for each, of in parts if each > 0)))
