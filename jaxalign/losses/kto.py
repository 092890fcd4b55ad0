"""KTO: Kahneman–Tversky optimisation, of lone answers that are good or bad. Ethayarajh et al. 2024 (arXiv 2402.01306),
eq. 7.

    loss = desirable · ( 1 − σ( beta (r − z) ) )        of a good answer
    loss = undesirable · ( 1 − σ( beta (z − r) ) )      of a bad one
    r    = log π/π_anchor(y),        z = max( 0, mean over the batch of log π/π_anchor(y′) )

y′ is an answer to another prompt, one beside each answer, so z tells the KL from the anchor without sampling; no
gradient flows through it, and it is over all answers of an optimizer's step, or of as many held-out ones. Where there
are no such answers beside them z is 0. An uncertain label counts both ways by its probability.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.margins import expected_over_labels
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class KTO:
    """Value lost (in [0, weight]) of an answer, against what the policy makes of answers altogether."""

    beta: float = 0.1
    """how fast value saturates, per nat, > 0"""
    desirable: float = 1.0
    """weight of good answers, > 0 (lambda_D)"""
    undesirable: float = 1.0
    """weight of bad answers, > 0 (lambda_U); the paper has the ratio of both times that of their counts in [1, 3/2]"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = ("batch", "stray")
    responses: ClassVar[int] = 1

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta, desirable=self.desirable, undesirable=self.undesirable)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        ahead = self.beta * (LogRatio()(logps)[:, 0] - moved(logps))
        good, bad = jax.nn.sigmoid(-ahead), jax.nn.sigmoid(ahead)
        return expected_over_labels(logps.prefer, self.desirable * good, self.undesirable * bad)


def moved(logps: GroupLogps) -> Float[Array, ""]:
    """z: nats."""
    if logps.stray is None:
        return jnp.zeros((), jnp.float32)
    assert logps.weight is not None
    share = logps.weight / jnp.maximum(logps.weight.sum(), 1e-30)
    mean = jnp.where(share > 0, share * logps.stray, 0.0).sum()
    return jax.lax.stop_gradient(jnp.maximum(mean, 0.0))


EXAMPLE = KTO(beta=0.1, desirable=1.0, undesirable=1.5)
