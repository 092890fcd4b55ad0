"""Omni-DPO: pairs by how far apart they are rated and how little is learnt of them yet. Peng et al. 2025 (arXiv
2506.10054), as its released code has it.

    loss = −w_quality w_progress log σ(z) − lift · log π(chosen) [ S(chosen) >= good, π(chosen) < π_anchor(chosen) ]
    w_quality  = σ( eta ( S(chosen) − S(rejected) ) )
    w_progress = ( 1 − σ( beta ( log π(chosen) − log π(rejected) ) − reach ) )^gamma
    z          = beta ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) )

As in the code gradients flow through w_progress. Defaults are its settings for mathematics.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import either_way
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class OmniDPO:
    """DPO's loss (nats), weighted, and a likelihood for good answers that become less likely."""

    good: float
    """score from which a chosen answer is good, in the unit of the scores"""
    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    eta: float = 0.7
    """of the ratings' difference, > 0"""
    gamma: float = 3.0
    """how much learnt pairs lose weight, >= 0; 0: none"""
    reach: float = 2.0
    """scaled difference of log-probs at which half is learnt (tau_ref)"""
    lift: float = 0.2
    """lambda: weight of the likelihood of good answers, >= 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta, eta=self.eta)
        for name, value in (("gamma", self.gamma), ("lift", self.lift)):
            if not value >= 0:
                yield f"{name} must not be negative, got {value}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        ratios, sums, scores = LogRatio()(logps), logps.sums, logps.score

        def loss(chosen: int, rejected: int) -> Float[Array, " b"]:
            quality = jax.nn.sigmoid(self.eta * (scores[:, chosen] - scores[:, rejected]))
            learnt = self.beta * (sums[:, chosen] - sums[:, rejected]) - self.reach
            # Of the logarithm: a power of a sigmoid that is 0 has no finite slope.
            progress = jnp.exp(self.gamma * jax.nn.log_sigmoid(-learnt))
            label = -quality * progress * jax.nn.log_sigmoid(self.beta * (ratios[:, chosen] - ratios[:, rejected]))
            sinking = (scores[:, chosen] >= self.good) & (ratios[:, chosen] < 0)
            return label - jnp.where(sinking, self.lift * sums[:, chosen], 0.0)

        return either_way(logps, loss)


EXAMPLE = OmniDPO(good=0.5)
