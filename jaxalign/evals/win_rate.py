"""Win rates between policies on held-out prompts under the oracle, with bootstrap confidence intervals.

    win rate(A, B) = mean over prompts of Σ_ij wA_i wB_j P(y_i ≻ y′_j)

over all pairs of an answer of A and one of B (w = 1/m for samples). Identical texts are at 1/2. Intervals are
percentile bootstraps over prompts (Efron 1979): prompts, not answers, are the sampled unit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxalign.evals.context import HeldOut, role_problems
from jaxalign.evals.length_control import length_controlled
from jaxalign.evals.side_by_side import joint_preferences
from jaxalign.types import Metrics, Rollouts


@dataclass(frozen=True)
class WinRate:
    """The evaluated policy against others; an opponent that does not exist yet is left out.

    Metrics, in [0, 1]: `win_rate/vs_<role>` and `win_rate_length_controlled/vs_<role>` (see `length_control`), each
    with its 95 % interval `…_ci95_low` and `…_ci95_high`; `win_rate/vs_<role>/<annotator>` for each annotator alone.
    """

    against: tuple[str, ...] = ("base", "previous")
    resamples: int = 2000
    """bootstrap resamples of the prompts, >= 1"""

    needs: ClassVar[tuple[str, ...]] = ("answers", "oracle")

    def problems(self) -> Iterable[str]:
        yield from role_problems(self.against)
        if self.resamples < 1:
            yield f"resamples must be at least 1, got {self.resamples}"

    def __call__(self, context: HeldOut) -> Metrics:
        metrics: Metrics = {}
        for role in self.against:
            name = context.opponent(role)
            if name is None:
                continue
            pair = (context.current, context.responses[name])
            preferences = context.preferences(name)
            rates = between(preferences.prefer, pair)[:, 0, 1]
            raw = (float(rates.mean()), *bootstrap_interval(rates, context.key, self.resamples))
            controlled = length_controlled(preferences, pair, context.key, self.resamples)
            for kind, found in (("win_rate", raw), ("win_rate_length_controlled", controlled)):
                ends = ("", "_ci95_low", "_ci95_high")
                metrics |= {f"{kind}/vs_{role}{end}": value for end, value in zip(ends, found, strict=True)}
            for index, annotator in enumerate(preferences.annotators):
                alone = between(preferences.by_annotator[:, index], pair)[:, 0, 1]
                metrics[f"win_rate/vs_{role}/{annotator}"] = float(alone.mean())
        return metrics


def win_rate_matrix(context: HeldOut) -> tuple[tuple[str, ...], Float[np.ndarray, "k k"]]:
    """Names of all policies and [i, j] = win rate of policy i against policy j; complements add up to exactly 1."""
    policies = list(context.responses.values())
    preferences = joint_preferences(context.oracle, policies, context.key)
    return context.names, between(preferences.prefer, policies).mean(0)


def between(prefer: Float[np.ndarray, "b m m"], policies: Sequence[Rollouts]) -> Float[np.ndarray, "b k k"]:
    """Each prompt's win rates between k policies whose answers lie policy after policy along m.

    Summed as advantages P − 1/2 and rounded to multiples of 2^-40, so that complements stay exact through sums.
    """
    owner = np.repeat(np.arange(len(policies)), [rollouts.weights.shape[1] for rollouts in policies])
    weights = np.concatenate([rollouts.weights for rollouts in policies], 1).astype(np.float64)
    share = weights[:, :, None] * (owner[:, None] == np.arange(len(policies)))
    advantage = np.einsum("bik,bij,bjl->bkl", share, prefer.astype(np.float64) - 0.5, share)
    advantage = (advantage - advantage.swapaxes(1, 2)) / 2
    return 0.5 + np.round(advantage * 2**40) / 2**40


def bootstrap_interval(
    values: Float[np.ndarray, " b"], key: PRNGKeyArray, resamples: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`, seeded by `key`."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    drawn = generator.integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(-1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def format_matrix(names: Sequence[str], matrix: Float[np.ndarray, "k k"]) -> str:
    """Plain-text table: row policy's win rate against column policy, per cent."""
    wide = max(len(name) for name in names)
    head = " " * wide + "".join(f"  {name:>{max(len(name), 5)}}" for name in names)
    body = [
        f"{name:<{wide}}"
        + "".join(f"  {100 * rate:>{max(len(other), 5)}.1f}" for other, rate in zip(names, row, strict=True))
        for name, row in zip(names, matrix, strict=True)
    ]
    return "\n".join([head, *body])


EXAMPLE = WinRate()
