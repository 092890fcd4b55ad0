"""SWEPO: a set of good answers against all of a prompt, those that deviate most first. Gupta et al. 2024 (arXiv
2412.04628, also called multi-preference optimisation).

    loss = −log( Σ_{good} w e^s / Σ_{all} w e^s )
    s    = beta log π/π_anchor(y),        w = exp( alpha |S(y) − mean S| )

over the K answers of a group; good ones are rated above their mean, and a group whose ratings are all alike has no
gradient. Weights grow away from the mean on both sides, as the paper's abstract says in words; of its formulas only the
weight of good answers could be read, at second hand. Of two answers, with alpha = 0, it is DPO. What is learnt is how
likely the good answers are together: which of them is said is left to the anchor.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.ratings import By, ratings
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class SWEPO:
    """Negative log-likelihood (nats) of the good answers among those of their group."""

    alpha: float
    """how much more answers count that are rated far from the mean, in nats a unit of ratings, >= 0"""
    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    by: By = "score"
    """what rates answers"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int | None] = None

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        if not self.alpha >= 0:
            yield f"alpha must not be negative, got {self.alpha}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        rated = ratings(logps, self.by)
        above = rated - jnp.mean(rated, axis=-1, keepdims=True)
        scores = self.beta * LogRatio()(logps) + self.alpha * jnp.abs(above)
        good = jnp.where((above > 0).any(-1, keepdims=True), above > 0, True)
        return jax.nn.logsumexp(scores, axis=-1) - jax.nn.logsumexp(scores, axis=-1, where=good)


EXAMPLE = SWEPO(alpha=0.5)
