"""PMPO: preference optimisation as probabilistic inference, of good answers, of bad ones or of both. Abdolmaleki et al.
2024 (arXiv 2410.04166), eq. 10.

    loss = −alpha p/P log π(y) + (1 − alpha) (1 − p)/(1 − P) log π(y) + beta log π_anchor/π(y)

p is the probability that the answer is good, P its mean over the batch, so that good answers together weigh alpha and
bad ones 1 − alpha, however many there are of each; of a kind that the batch has not nothing is asked. The last term
estimates KL(π_anchor ‖ π), and does so without bias where answers are drawn from the anchor. Then the minimiser is

    π ∝ alpha π₊ − (1 − alpha) π₋ + beta π_anchor

π₊ and π₋ being the distributions of good and of bad answers: bad ones are taken out of the anchor. Where that is
negative somewhere there is none, and the loss falls without end; from bad answers alone the paper wants beta above
1 − alpha. Answers are lone ones: pairs are taken apart by `Alone`, sampled answers come from `EveryAnswer`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class PMPO:
    """Weighed log-likelihoods (nats) of good and bad answers, and the KL from the anchor."""

    alpha: float = 0.5
    """share of good answers, in [0, 1]; 1: bad ones are not read"""
    beta: float = 0.5
    """weight of the KL, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = ("batch",)
    responses: ClassVar[int] = 1

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        if not 0 <= self.alpha <= 1:
            yield f"alpha must lie in [0, 1], got {self.alpha}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        good, bad = of_its_kind(logps, logps.prefer), of_its_kind(logps, 1 - logps.prefer)
        likely = logps.sums[:, 0]
        return ((1 - self.alpha) * bad - self.alpha * good) * likely - self.beta * LogRatio()(logps)[:, 0]


def of_its_kind(logps: GroupLogps, share: Float[Array, " b"]) -> Float[Array, " b"]:
    """`share` of each answer over its mean in the batch, 0 where that is 0."""
    assert logps.weight is not None
    total = (logps.weight * share).sum()
    return jnp.where(total > 0, share * logps.weight.sum() / jnp.maximum(total, 1e-30), 0.0)


EXAMPLE = PMPO()
