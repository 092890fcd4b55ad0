"""Held-out pairs: the loss of a policy on them, how often it ranks the two answers as people do, and by how much.

Pairs of one prompt share its answers, so prompts are what is drawn. Intervals of accuracy are those of bounded means
(`intervals`), of loss and margin, which have no bounds, percentile bootstraps over prompts (Efron 1979).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from jaxalign.errors import ConfigError
from jaxalign.evals.context import HeldOut
from jaxalign.evals.intervals import estimated
from jaxalign.training.pair_scores import weighted_mean
from jaxalign.types import Metrics

AT_ONCE = 2**22
"""Draws of a prompt that are counted together: bytes of memory, whatever the number of prompts."""


@dataclass(frozen=True)
class HeldOutPairs:
    """`heldout/loss` as the fit has it, `heldout/accuracy` among pairs that are no tie, `heldout/margin_nats` by which
    the policy prefers the first answer: means by weight, each with its 95 % interval `…_ci95_low` and `…_ci95_high`.

    The margin is that of log π/π_anchor, so the base policy has margin 0 and accuracy 1/2, or of log π where the loss
    reads no anchor. Of lone answers it is log π/π_anchor, or a score model's rank, towards what is said of them.
    """

    resamples: int = 2000
    """bootstrap resamples of the prompts, >= 1"""

    needs: ClassVar[tuple[str, ...]] = ("pairs",)

    def problems(self) -> Iterable[str]:
        if self.resamples < 1:
            yield f"resamples must be at least 1, got {self.resamples}"

    def __call__(self, context: HeldOut) -> Metrics:
        scores = context.pairs
        if scores is None:
            raise ConfigError("evals: HeldOutPairs needs held-out pairs, and there are none")
        metrics: Metrics = {}
        for name, values in scores.columns().items():
            if name == "accuracy":
                low, high = bounded_interval(values, scores.weight, scores.prompt)
            else:
                low, high = interval(values, scores.weight, scores.prompt, context.key, self.resamples)
            metrics |= {
                f"heldout/{name}": weighted_mean(values, scores.weight),
                f"heldout/{name}_ci95_low": low,
                f"heldout/{name}_ci95_high": high,
            }
        return metrics


def interval(
    values: Float[np.ndarray, " g"],
    weight: Float[np.ndarray, " g"],
    prompt: Int[np.ndarray, " g"],
    key: PRNGKeyArray,
    resamples: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `weighted_mean`: prompts are drawn with all their pairs, seeded by `key`."""
    whole, shares = by_prompt(values, weight, prompt)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    means = []
    for start in range(0, resamples, at_once := max(AT_ONCE // len(whole), 1)):
        drawn = generator.integers(len(whole), size=(min(at_once, resamples - start), len(whole)))
        means.append(whole[drawn].sum(-1) / np.maximum(shares[drawn].sum(-1), 1e-30))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bounded_interval(
    values: Float[np.ndarray, " g"], weight: Float[np.ndarray, " g"], prompt: Int[np.ndarray, " g"]
) -> tuple[float, float]:
    """Interval of `weighted_mean` of values in [0, 1]; all of it where nothing counts."""
    whole, share = by_prompt(values, weight, prompt)
    if not share.any():
        return 0.0, 1.0
    found = estimated(whole / np.where(share > 0, share, 1.0), share)
    return found.low, found.high


def by_prompt(
    values: Float[np.ndarray, " g"], weight: Float[np.ndarray, " g"], prompt: Int[np.ndarray, " g"]
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """Each prompt's sum of its pairs' values by weight, and of their weights; NaN does not count."""
    _, owner = np.unique(prompt, return_inverse=True)
    share = np.where(np.isnan(values), 0.0, weight).astype(np.float64)
    return np.bincount(owner, np.nan_to_num(values) * share), np.bincount(owner, share)


EXAMPLE = HeldOutPairs()
