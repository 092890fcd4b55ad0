"""Likelihood of the chosen answer: supervised fine-tuning, and the term that other losses add to keep it up.

    loss = −log π(chosen) / |chosen|

An uncertain label takes each answer with its probability.
"""

from dataclasses import dataclass
from typing import ClassVar

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


EXAMPLE = Likelihood()
