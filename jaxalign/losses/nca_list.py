"""Noise contrastive alignment on rewards of K answers. Chen et al. 2024 (arXiv 2402.05369).

    InfoNCA  loss = −Σ_i p_i log softmax(r)_i
    NCAList  loss = −Σ_i [ p_i log σ(r_i) + 1/K log σ(−r_i) ]
    p = softmax(S / temperature),        r = beta log π/π_anchor(y)

over the K answers of a group. InfoNCA sees how answers compare with one another and NCA what each is worth, so it keeps
good answers likely. Of two answers and a certain preference InfoNCA is DPO, and NCAList NCA.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from jaxalign.losses.parts.ratings import By, ratings
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class InfoNCA:
    """Cross-entropy (nats) of the implicit preferences among the answers and those of their ratings."""

    temperature: float
    """of the ratings, in their unit, > 0 (the paper's alpha)"""
    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    by: By = "score"
    """what rates answers"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int | None] = None

    def problems(self) -> Iterable[str]:
        yield from positive(temperature=self.temperature, beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        likely = jax.nn.softmax(ratings(logps, self.by) / self.temperature)
        return -(likely * jax.nn.log_softmax(self.beta * LogRatio()(logps))).sum(-1)


@dataclass(frozen=True)
class NCAList:
    """Negative log-likelihood (nats) of telling each answer from what the anchor says."""

    temperature: float
    """of the ratings, in their unit, > 0 (the paper's alpha)"""
    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    by: By = "score"
    """what rates answers"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int | None] = None

    def problems(self) -> Iterable[str]:
        yield from positive(temperature=self.temperature, beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        likely = jax.nn.softmax(ratings(logps, self.by) / self.temperature)
        rewards = self.beta * LogRatio()(logps)
        return -(likely * jax.nn.log_sigmoid(rewards) + jax.nn.log_sigmoid(-rewards) / rewards.shape[1]).sum(-1)


EXAMPLES = (InfoNCA(temperature=0.5), NCAList(temperature=0.5))
