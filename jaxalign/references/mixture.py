"""Several references at once, as one anchor.

    log-linear    log π_anchor(y) = Σ_k w_k log π_k(y) − log Z(x)
    arithmetic    log π_anchor(y) = log Σ_k w_k π_k(y)
    harmonic      log π_anchor(y) = −log Σ_k w_k / π_k(y) − log Z(x)

The log-linear one is the reference of the objective that has a KL to each, Σ_k w_k KL(π ‖ π_k): the penalties add up to
KL(π ‖ π_anchor) but for log Z, which depends on the prompt alone. The arithmetic one is the policy that draws one of
them for each answer: an answer is near it that is likely under any of them. The harmonic one is the reference of
multi-reference preference optimisation (Le et al. 2024, MRPO, arXiv 2405.16388): Σ_k w_k KL(π ‖ π_k) is at most the KL
from it less log Z(x), by Jensen's inequality, and an answer is near it that is likely under all of them. (The paper
also cuts off the log-probs of other references around those of the first, and makes weights of how surely each tells a
pair apart.)
Weights are over whole answers in all three.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxalign.references.cached import all_stored, none_live
from jaxalign.references.of_run import OfRun


@dataclass(frozen=True)
class Mixture:
    """The anchor is mixed of the base policy, the anchor of the schedule and policies of other runs; log-probs are
    stored."""

    base: float = 0.5
    """weight of the base policy, >= 0"""
    anchor: float = 0.5
    """weight of the anchor that `swap_every` says, >= 0"""
    guides: tuple[OfRun, ...] = ()
    """policies of other runs"""
    weights: tuple[float, ...] = ()
    """of the guides, > 0; all weights sum to 1"""
    kind: Literal["log-linear", "arithmetic", "harmonic"] = "log-linear"
    """what is averaged: log-probs, probabilities or their inverses"""

    def problems(self) -> Iterable[str]:
        if len(self.guides) != len(self.weights):
            yield f"there are {len(self.guides)} guides and {len(self.weights)} weights; each guide has one"
        if min(self.base, self.anchor) < 0 or any(not weight > 0 for weight in self.weights):
            yield f"weights must not be negative, got {[self.base, self.anchor, *self.weights]}"
        elif abs(math.fsum(self._shares) - 1) > 1e-6:
            yield f"weights must sum to 1, got {self._shares}"

    @property
    def _shares(self) -> list[float]:
        """Those of the members."""
        return [weight for weight in (self.base, self.anchor, *self.weights) if weight]

    @property
    def outside(self) -> tuple[OfRun, ...]:
        return self.guides

    @property
    def scheduled(self) -> bool:
        return self.anchor > 0

    @property
    def normalised(self) -> bool:
        return self.kind == "arithmetic"

    stored, live = all_stored, none_live

    def members(self, anchors: Sequence[int]) -> tuple[int, ...]:
        """Those that have a weight."""
        own = (anchors[-1], *anchors[:1])
        kept = (number for number, weight in zip(own, (self.base, self.anchor), strict=True) if weight)
        return (*kept, *(-1 - index for index in range(len(self.guides))))

    def blend(self, sums: Float[np.ndarray, "k g r"]) -> Float[np.ndarray, "g r"]:
        """The mean of their log-probs, or the logarithm of that of their probabilities or inverses of them."""
        weights = np.array(self._shares)[:, None, None]
        if self.kind == "log-linear":
            return (weights * sums).sum(0)
        from scipy.special import logsumexp

        sign = 1 if self.kind == "arithmetic" else -1
        found: Float[np.ndarray, "g r"] = sign * logsumexp(sign * sums, axis=0, b=weights)
        return found


EXAMPLE = Mixture(base=0.25, anchor=0.5, guides=(OfRun("runs/dpo"),), weights=(0.25,), kind="arithmetic")
