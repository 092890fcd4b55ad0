"""Makes the table of BENCHMARKS.md on intervals: how often each covers the truth, and how wide it is.

PYTHONPATH=.:tests python tests/goldens/make_coverage.py [EXPERIMENTS]
"""

import functools
import sys
from collections.abc import Callable

import numpy as np
from made_coverage import DISTRIBUTIONS, Interval, coverage
from scipy.special import ndtri, stdtrit

from jaxalign.evals.intervals import estimated

PROMPTS = (8, 64, 200)
EXPERIMENTS = 1000
LEVEL = 0.95


def two_prompts_more(values: np.ndarray) -> tuple[float, float]:
    found = estimated(values)
    return found.low, found.high


def student(values: np.ndarray) -> tuple[float, float]:
    half = stdtrit(len(values) - 1, (1 + LEVEL) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


@functools.cache
def resamples(prompts: int) -> np.ndarray:
    """How often each prompt is drawn: the same ways for all experiments, which saves most of the time."""
    return np.random.default_rng(0).multinomial(prompts, np.full(prompts, 1 / prompts), size=500) / prompts


def percentile_bootstrap(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(resamples(len(values)) @ values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return low, high


def wilson(effective: bool) -> Callable[[np.ndarray], tuple[float, float]]:
    """Of as many coins as there are prompts, or as vary as little as these do."""

    def interval(values: np.ndarray) -> tuple[float, float]:
        mean, spread, count = values.mean(), values.var(ddof=1), len(values)
        if effective and 0 < spread < mean * (1 - mean):
            count = count * mean * (1 - mean) / spread
        z = ndtri((1 + LEVEL) / 2)
        centre = (mean + z**2 / (2 * count)) / (1 + z**2 / count)
        half = z / (1 + z**2 / count) * np.sqrt(mean * (1 - mean) / count + z**2 / (4 * count**2))
        return centre - half, centre + half

    return interval


def empirical_bernstein(values: np.ndarray) -> tuple[float, float]:
    """Maurer & Pontil 2009, theorem 4, for both sides."""
    count, logarithm = len(values), np.log(4 / (1 - LEVEL))
    half = np.sqrt(2 * values.var(ddof=1) * logarithm / count) + 7 * logarithm / (3 * (count - 1))
    return max(values.mean() - half, 0.0), min(values.mean() + half, 1.0)


def half_prompts_more(values: np.ndarray) -> tuple[float, float]:
    """As two prompts more, each with half the weight of one."""
    share = np.append(np.ones(len(values)), [0.5, 0.5])
    values = np.append(values, [0.0, 1.0])
    mean, count = share @ values / share.sum(), share.sum()
    half = stdtrit(count - 1, (1 + LEVEL) / 2) * np.sqrt(share @ (values - mean) ** 2 / (count - 1) / count)
    return max(mean - half, 0.0), min(mean + half, 1.0)


def student_or_three(values: np.ndarray) -> tuple[float, float]:
    """Student's interval, or where that is narrower the rule of three: 3/n of what is drawn lies unseen at a bound."""
    (low, high), unseen = student(values), min(3 / len(values), 1.0)
    return max(min(low, (1 - unseen) * values.mean()), 0.0), min(max(high, unseen + (1 - unseen) * values.mean()), 1.0)


INTERVALS: dict[str, Interval] = {
    "two prompts more": two_prompts_more,
    "percentile bootstrap": percentile_bootstrap,
    "Student's t": student,
    "Wilson": wilson(False),
    "Wilson, effective size": wilson(True),
    "empirical Bernstein": empirical_bernstein,
    "half a prompt at each bound": half_prompts_more,
    "Student's t or the rule of three": student_or_three,
}


def main(experiments: int) -> None:
    for prompts in PROMPTS:
        print(f"| {prompts} prompts | {' | '.join(INTERVALS)} |\n|{'---|' * (len(INTERVALS) + 1)}")
        for name, of in DISTRIBUTIONS.items():
            cells = []
            for interval in INTERVALS.values():
                covered, width = coverage(interval, of, prompts, experiments)
                cells.append(f"{100 * covered:.1f} ({100 * width:.1f})")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        print()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EXPERIMENTS)
