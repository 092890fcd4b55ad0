"""Distributions of prompts' win rates whose mean is known, and how often an interval of drawn prompts covers it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Interval = Callable[[np.ndarray], tuple[float, float]]
"""Prompts' values [b] → ends."""


@dataclass(frozen=True)
class Prompts:
    """`draw(generator, shape)` are values of prompts, all in [0, 1]."""

    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    mean: float


def coin(chance: float, won: float = 1.0, lost: float = 0.0) -> Prompts:
    """Two values; `chance` is that of the first."""
    return Prompts(
        lambda generator, shape: np.where(generator.uniform(size=shape) < chance, won, lost),
        chance * won + (1 - chance) * lost,
    )


def beta(won: float, lost: float) -> Prompts:
    return Prompts(lambda generator, shape: generator.beta(won, lost, shape), won / (won + lost))


def answers(samples: int) -> Prompts:
    """Win rates over all pairs of so many answers of each policy: P = 0.62 + prompt + answer − other's answer."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        prompt = generator.uniform(-0.1, 0.1, shape)
        own, other = (generator.uniform(-0.14, 0.14, (*shape, samples)).mean(-1) for _ in range(2))
        return 0.62 + prompt + own - other

    return Prompts(draw, 0.62)


DISTRIBUTIONS = {
    "uniform on [0, 1]": Prompts(lambda generator, shape: generator.uniform(size=shape), 0.5),
    "0, 1/2 or 1": Prompts(lambda generator, shape: generator.integers(0, 3, shape) / 2, 0.5),
    "coin of 0.67": coin(0.67),
    "coin of 0.95": coin(0.95),
    "coin of 0.99": coin(0.99),
    "Beta(9, 0.5)": beta(9, 0.5),
    "Beta(14.4, 9.6)": beta(14.4, 9.6),
    "0.6, and 0 of 3 %": coin(0.03, 0.0, 0.6),
    "0.9, and 0 of 10 %": coin(0.1, 0.0, 0.9),
    "1/2, and 1 of 2 %": coin(0.02, 1.0, 0.5),
    "one answer each": answers(1),
    "six answers each": answers(6),
}


def coverage(interval: Interval, of: Prompts, prompts: int, experiments: int, seed: int = 0) -> tuple[float, float]:
    """The share of experiments whose interval holds the mean, and the intervals' mean width."""
    drawn = of.draw(np.random.default_rng(seed), (experiments, prompts))
    ends = np.array([interval(values) for values in drawn])
    held = (ends[:, 0] <= of.mean + 1e-12) & (of.mean - 1e-12 <= ends[:, 1])
    return float(held.mean()), float((ends[:, 1] - ends[:, 0]).mean())
