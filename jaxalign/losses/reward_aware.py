"""Reward-aware preference optimisation: the implicit reward's difference against that of given ones. Adler et al. 2024
(Nemotron-4 340B, arXiv 2406.11704); Sun et al. 2025 (arXiv 2502.00203).

    z = beta ( [log π/π_anchor](0) − [log π/π_anchor](1) ),        d = eta ( S(0) − S(1) )
    RewardAwareSquared   loss = (z − d)²
    RewardAwareForward   loss = KL( σ(z) ‖ σ(d) )
    RewardAwareBackward  loss = KL( σ(d) ‖ σ(z) )

KLs are of coins with these odds, named as in NeMo-Aligner, whose code this follows. The label is not read; all three
are least, 0, at z = d.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.margins import margin
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class RewardAwareSquared:
    """Squared distance (nats²) of the two differences."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    eta: float = 1.0
    """nats for a unit of score, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta, eta=self.eta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return margin(self.beta * LogRatio()(logps) - self.eta * logps.score) ** 2


@dataclass(frozen=True)
class RewardAwareForward:
    """KL (nats) from the implicit preference to that of the scores."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    eta: float = 1.0
    """nats for a unit of score, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta, eta=self.eta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return coin_divergence(self.beta * margin(LogRatio()(logps)), self.eta * margin(logps.score))


@dataclass(frozen=True)
class RewardAwareBackward:
    """KL (nats) from the preference of the scores to the implicit one: DPO with the label that the scores give."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""
    eta: float = 1.0
    """nats for a unit of score, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta, eta=self.eta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return coin_divergence(self.eta * margin(logps.score), self.beta * margin(LogRatio()(logps)))


def coin_divergence(one: Float[Array, " b"], other: Float[Array, " b"]) -> Float[Array, " b"]:
    """KL (nats) of coins with log-odds `one` from those with `other`."""
    up, down = jax.nn.log_sigmoid(one), jax.nn.log_sigmoid(-one)
    return jnp.exp(up) * (up - jax.nn.log_sigmoid(other)) + jnp.exp(down) * (down - jax.nn.log_sigmoid(-other))


EXAMPLES = (RewardAwareSquared(eta=2.0), RewardAwareForward(eta=2.0), RewardAwareBackward(eta=2.0))
