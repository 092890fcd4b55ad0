"""MaPPO: maximum a posteriori preference optimisation, DPO that spares rejected answers which are known to be good. Lan
et al. 2025 (arXiv 2507.21183), eq. 8.

    loss = −log σ( beta ( ρ(chosen) − d ρ(rejected) ) ),        ρ = log π/π_anchor(y)
    d    = ( S(chosen) − S(rejected) ) / span, cut off at 0 and 1

S are prior rewards, in the paper those of a reward model between 0 and 1, so that its d lies there by itself; `span` is
what makes 1 of a difference in another unit. Where d = 1 it is DPO, and where both answers are rated alike the rejected
one is left alone. The paper's prior is the ratio of e^ρ(chosen) + e^(d ρ(rejected)) to e^ρ(chosen) + e^ρ(rejected).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import either_way
from jaxalign.losses.parts.ratings import By, ratings
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class MaPPO:
    """Negative log-likelihood (nats) of the label, in which rejected answers count by how much worse they are rated."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    span: float = 1.0
    """difference of ratings at which a rejected answer counts in full, in their unit, > 0"""
    by: By = "score"
    """what rates answers"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta, span=self.span)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        ratios, rated = LogRatio()(logps), ratings(logps, self.by)

        def loss(chosen: int, rejected: int) -> Float[Array, " b"]:
            worse = jnp.clip((rated[:, chosen] - rated[:, rejected]) / self.span, 0.0, 1.0)
            return -jax.nn.log_sigmoid(self.beta * (ratios[:, chosen] - worse * ratios[:, rejected]))

        return either_way(logps, loss)


EXAMPLE = MaPPO(beta=0.1, span=2.0)
