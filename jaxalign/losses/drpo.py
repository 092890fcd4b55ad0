"""DRPO: doubly robust preference optimisation, right where either the preference model or the law of the pairs is. Xu
et al. 2025 (arXiv 2506.01183), algorithm 1.

    loss = −sg( [ g(y, 0) + g(y, 1) ] / 2 − 1/2 − beta ρ(y) ) log π(y)
           −sg( p − g(0, 1) ) [ w(0) log π(0) − w(1) log π(1) ] / 2

    g(i, j) = σ( ( S(i) − S(j) ) / temperature ),        ρ = log π/π_anchor
    w       = sg( e^ρ ), cut off at 1/most and most

The pair 0, 1 is drawn from the anchor, with label p; y is an answer of the policy (`pairings.anchor_pairs`); no
gradient flows through what is in sg. In expectation its gradient is that of −P(π ≻ π_anchor) + beta KL(π ‖ π_anchor),
if g is the preference of the labels, whatever w, or if pairs are the anchor's and nothing is cut off, whatever g. Its
value says nothing. The gradient is that of the policy that answered, so a fit should be short.

In the paper's code the KL is an estimate of KL(π_anchor ‖ π) on the policy's answers, of which one released version
takes no gradient at all; here it is that of the objective which the paper states. Both orders of a pair are averaged.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.contracts.pairing import Third
from jaxalign.losses.margins import margin
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class DRPO:
    """A surrogate (its value says nothing): descending it raises the policy's win rate against the anchor."""

    beta: float = 0.04
    """weight of the KL to the anchor, in win rates a nat, >= 0"""
    temperature: float = 1.0
    """of the scores that the preference model is made of, in their unit, > 0"""
    most: float = 2.5
    """bound of the ratio by which labels are weighed, and of its inverse, >= 1; 1: they are not"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int | None] = 3
    third: ClassVar[Third] = "policy"

    def problems(self) -> Iterable[str]:
        yield from positive(temperature=self.temperature)
        if not self.beta >= 0:
            yield f"beta must not be negative, got {self.beta}"
        if not self.most >= 1:
            yield f"most must be at least 1, got {self.most}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        ratios, likely, scores = jax.lax.stop_gradient(LogRatio()(logps)), logps.sums, logps.score / self.temperature
        beaten = jax.nn.sigmoid(scores[:, 2:] - scores[:, :2]).mean(-1)
        direct = (beaten - 0.5 - self.beta * ratios[:, 2]) * likely[:, 2]
        weights = jnp.exp(jnp.clip(ratios[:, :2], -math.log(self.most), math.log(self.most)))
        surprise = logps.prefer - jax.nn.sigmoid(margin(scores))
        return -direct - surprise * margin(weights * likely[:, :2]) / 2


EXAMPLE = DRPO(beta=0.1)
