"""AOT: alignment via optimal transport, which orders what answers are worth and not pairs. Melnyk et al. 2024 (arXiv
2406.05882).

    AOT          loss = −log σ( beta ( u_(k) − v_(k) ) )      u = log π(w)/π(l),       v = log π_anchor(w)/π_anchor(l)
    AOTUnpaired  loss = −log σ( beta ( u_(k) − v_(k) ) )      u = log π/π_anchor(w),   v = log π/π_anchor(l)

u_(k) and v_(k) are the k-th smallest over the batch, so u's distribution is drawn above v's as a whole; which chosen
answer is compared with which rejected one is decided by rank. All groups of an optimizer's step are ordered together.
Weights of groups count in the mean and not in the order; of an uncertain label the likelier answer is the chosen one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.margins import margin
from jaxalign.losses.parts.compared import oriented
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class AOT:
    """Negative log-likelihood (nats) of the policy's margins lying above the anchor's, rank by rank."""

    beta: float = 0.1
    """scale, > 0"""
    smoothing: float = 0.0
    """how often labels are taken to be wrong, in [0, 1/2)"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = ("batch",)

    def problems(self) -> Iterable[str]:
        return Logistic(self.beta, smoothing=self.smoothing).problems()

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        assert logps.anchor is not None
        upper, lower = (margin(oriented(logps, sums)) for sums in (logps.sums, logps.anchor))
        return by_rank(logps, upper, lower, Logistic(self.beta, smoothing=self.smoothing))


@dataclass(frozen=True)
class AOTUnpaired:
    """Negative log-likelihood (nats) of the chosen answers' rewards lying above the rejected ones', rank by rank."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    smoothing: float = 0.0
    """how often labels are taken to be wrong, in [0, 1/2)"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = ("batch",)

    def problems(self) -> Iterable[str]:
        return Logistic(self.beta, smoothing=self.smoothing).problems()

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        ratios = oriented(logps, LogRatio()(logps))
        return by_rank(logps, ratios[:, 0], ratios[:, 1], Logistic(self.beta, smoothing=self.smoothing))


def by_rank(logps: GroupLogps, upper: Float[Array, " b"], lower: Float[Array, " b"], link: Logistic) -> Array:
    """`link` of each group's `upper` and the `lower` of the same rank, among groups that count; 0 for the others."""
    assert logps.weight is not None
    counts = logps.weight > 0
    last = jnp.asarray(jnp.inf, upper.dtype)
    order = jnp.argsort(jnp.where(counts, upper, last))
    partners = jnp.take(lower, jnp.argsort(jnp.where(counts, lower, last)))
    found = jnp.zeros_like(upper).at[order].set(link(jnp.take(upper, order), partners))
    return jnp.where(counts, found, 0.0)


EXAMPLES = (AOT(beta=0.1), AOTUnpaired(beta=0.1))
