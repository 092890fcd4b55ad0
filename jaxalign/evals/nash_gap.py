"""Distance of a policy from the Nash policy of its game, where its answers enumerate all it can say.

    gap(π) = max_μ J(μ, π) − min_μ J(π, μ) = 2 max_y (P(y ≻ π) − 1/2),    P(y ≻ π) = Σ_j w_j P(y ≻ y_j)

with the factor 2 of the two players (Liu et al. 2024, arXiv 2410.23223). On samples instead of an enumeration the
maximum runs over the sampled answers only and the gap is that of the empirical game.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from jaxalign.evals.context import HeldOut
from jaxalign.types import Metrics


@dataclass(frozen=True)
class NashGap:
    """`nash/gap` and, where the Nash policy is given, `nash/kl` = KL(nash ‖ π) in nats; both means over prompts.

    Action i of `nash` is the response whose first token is i.
    """

    nash: tuple[float, ...] = ()
    """probabilities of the Nash policy, summing to 1; empty: unknown"""

    needs: ClassVar[tuple[str, ...]] = ("answers", "oracle")

    def problems(self) -> Iterable[str]:
        if self.nash and not (min(self.nash) >= 0 and abs(sum(self.nash) - 1) < 1e-6):
            yield f"nash must be probabilities that sum to 1, got {self.nash}"

    def asks(self, names: Sequence[str], others: Sequence[str]) -> Iterable[tuple[str, ...]]:
        """About the evaluated policy's own answers."""
        del others
        return [(names[-1],)]

    def __call__(self, context: HeldOut) -> Metrics:
        rollouts = context.current
        prefer = context.oracle(rollouts, context.key).prefer
        metrics = {"nash/gap": float(duality_gap(prefer, rollouts.weights).mean())}
        if self.nash:
            policy = action_probabilities(rollouts.tokens[:, :, 0], rollouts.weights, len(self.nash))
            metrics["nash/kl"] = float(kl_from(np.asarray(self.nash), policy).mean())
        return metrics


def duality_gap(prefer: Float[np.ndarray, "b m m"], weights: Float[np.ndarray, "b m"]) -> Float[np.ndarray, " b"]:
    """2 max_i (Σ_j w_j P(i ≻ j) − 1/2), in [0, 1]."""
    advantage = np.einsum("bij,bj->bi", prefer.astype(np.float64) - 0.5, weights.astype(np.float64))
    return 2 * advantage.max(-1)


def action_probabilities(
    actions: Int[np.ndarray, "b m"], weights: Float[np.ndarray, "b m"], size: int
) -> Float[np.ndarray, "b a"]:
    """Total weight of each action's responses."""
    return np.einsum("bm,bma->ba", weights.astype(np.float64), np.eye(size)[actions])


def kl_from(target: Float[np.ndarray, " a"], policy: Float[np.ndarray, "b a"]) -> Float[np.ndarray, " b"]:
    """KL(target ‖ policy) in nats.

    Probabilities are floored at the smallest normal fp32 number, so that an action the policy has lost altogether
    counts as 87 nats away instead of infinitely far, which JSON cannot say.
    """
    floored = np.maximum(policy, np.finfo(np.float32).tiny)
    return (target * (np.log(np.where(target > 0, target, 1)) - np.log(floored))).sum(-1)


EXAMPLE = NashGap(nash=(4 / 11, 3 / 11, 4 / 11))
