"""Exact distance of a policy from the Nash policy of its game, where all its answers are listed with their
probabilities.

What the oracle says of all answers is the whole game, so its Nash policy is found by linear programming, prompt by
prompt, and the duality gap is over every deviation there is, not over sampled ones.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jaxalign.errors import ConfigError
from jaxalign.evals.context import HeldOut
from jaxalign.evals.nash_gap import duality_gap, kl_from
from jaxalign.games.solve import nash
from jaxalign.rollouts.enumerate import enumerated
from jaxalign.types import Metrics


@dataclass(frozen=True)
class ExactNash:
    """`nash/gap` (both players counted) and `nash/kl` = KL(Nash ‖ π) in nats, means over prompts.

    The divergence is from one Nash policy, a vertex: it says what it should where there is a single one.
    """

    needs: ClassVar[tuple[str, ...]] = ("answers", "oracle")

    def asks(self, names: Sequence[str], others: Sequence[str]) -> Iterable[tuple[str, ...]]:
        """About the evaluated policy's own answers."""
        del others
        return [(names[-1],)]

    def __call__(self, context: HeldOut) -> Metrics:
        """Raises ConfigError unless the answers are all that the policy says."""
        rollouts = context.current
        if not enumerated(rollouts).all():
            raise ConfigError("ExactNash needs every answer with its probability: evaluation.rollout=Enumerate(…)")
        prefer = context.oracle(rollouts, context.key).prefer
        away = [
            kl_from(solved(each.tobytes(), len(each)), weights[None])[0]
            for each, weights in zip(prefer, rollouts.weights, strict=True)
        ]
        return {"nash/gap": float(duality_gap(prefer, rollouts.weights).mean()), "nash/kl": float(np.mean(away))}


@functools.lru_cache(maxsize=256)
def solved(prefer: bytes, size: int) -> Float[np.ndarray, " m"]:
    """The Nash policy of a game [m m], fp32: the same games are met again at every iterate."""
    return nash(np.frombuffer(prefer, np.float32).reshape(size, size).astype(np.float64))


EXAMPLE = ExactNash()
