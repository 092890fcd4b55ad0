"""BCO: binary classifier optimisation, of lone answers that are good or bad. Jung et al. 2024 (arXiv 2404.04656).

    loss  = −log σ(r − delta)        of a good answer
    loss  = −log σ(delta − r)        of a bad one
    r     = beta log π/π_anchor(y),        delta = ( mean r of good answers + mean r of bad ones ) / 2

The means are over all answers of an optimizer's step, and no gradient flows through them; the paper's code has running
means over steps in their place. Where a step has answers of one kind, delta is their mean. An uncertain label counts
both ways by its probability.
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
class BCO:
    """Negative log-likelihood (nats) of good and bad under a classifier whose logit is the implicit reward."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = ("batch",)
    responses: ClassVar[int] = 1

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        rewards = self.beta * LogRatio()(logps)[:, 0]
        ahead = rewards - shift(logps, rewards)
        return expected_over_labels(logps.prefer, -jax.nn.log_sigmoid(ahead), -jax.nn.log_sigmoid(-ahead))


def shift(logps: GroupLogps, rewards: Float[Array, " b"]) -> Float[Array, ""]:
    """delta: halfway between the mean rewards of good and bad answers."""
    assert logps.weight is not None
    rewards = jax.lax.stop_gradient(jnp.where(logps.weight > 0, rewards, 0.0))
    shares = jnp.stack([logps.weight * logps.prefer, logps.weight * (1 - logps.prefer)])
    totals = shares.sum(1)
    means = jnp.where(totals > 0, (shares * rewards[None]).sum(1) / jnp.maximum(totals, 1e-30), 0.0)
    return means.sum() / jnp.maximum((totals > 0).sum(), 1).astype(jnp.float32)


EXAMPLE = BCO(beta=0.1)
