"""Likelihood of the chosen answer: supervised fine-tuning, and the term that other losses add to keep it up.

    Likelihood       loss = −log π(chosen) / |chosen|
    TokenLikelihood  loss = −log π(chosen) / (mean |chosen|)

The first counts answers alike, the second their tokens: its mean over the groups of an optimizer's step is that over
all tokens of their chosen answers, as TRL's `sft` has it, so long answers say more. An uncertain label takes each
answer with its probability.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.margins import expected_over_labels
from jaxalign.losses.parts.scores import Logp, TokenMean
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class Likelihood:
    """Negative log-likelihood (nats a token) of the chosen answer."""

    needs: ClassVar[tuple[str, ...]] = ()

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        means = TokenMean(Logp())(logps)
        return expected_over_labels(logps.prefer, -means[:, 0], -means[:, 1])


@dataclass(frozen=True)
class TokenLikelihood:
    """Negative log-likelihood (nats) of the chosen answer, over how many tokens chosen answers have on average."""

    needs: ClassVar[tuple[str, ...]] = ()
    extras: ClassVar[tuple[str, ...]] = ("batch",)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        assert logps.weight is not None
        sums, lengths = logps.sums, logps.lengths.astype(jnp.float32)
        counted = expected_over_labels(logps.prefer, lengths[:, 0], lengths[:, 1])
        tokens = jnp.where(logps.weight > 0, logps.weight * counted, 0.0).sum()
        likely = expected_over_labels(logps.prefer, -sums[:, 0], -sums[:, 1])
        return likely * logps.weight.sum() / jnp.maximum(tokens, 1e-30)


EXAMPLES = (Likelihood(), TokenLikelihood())
