"""Noisy gains: what an expected-gradient learner sees when opponents are sampled and votes are coin tosses."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxalign.games.game import MatrixGame
from jaxalign.types import pytree


@pytree
class NoisyGame:
    """A matrix game whose gain is the mean of one vote against each of m sampled opponents: unbiased."""

    prefer: Float[Array, "v v"]
    uniforms: Float[Array, "m v"]
    draws: Float[Array, " m"]

    @property
    def value(self) -> Float[Array, ""]:
        """1/2."""
        return jnp.asarray(0.5, self.prefer.dtype)

    def gain(self, policy: Float[Array, " v"]) -> Float[Array, " v"]:
        """Share of the m votes that each action wins. Calls share their random numbers, whatever the policy."""
        opponents = jnp.searchsorted(jnp.cumsum(policy), self.draws * policy.sum())
        opponents = jnp.minimum(opponents, policy.size - 1)
        votes = self.uniforms < self.prefer[:, opponents].T
        return votes.astype(policy.dtype).mean(0)


@dataclass(frozen=True)
class SampledOpponents:
    """`samples` opponents a step, each action judged once against each of them."""

    samples: int = 16

    def __call__(self, game: MatrixGame, key: PRNGKeyArray) -> NoisyGame:
        votes_key, draws_key = jax.random.split(key)
        actions, dtype = len(game.prefer), game.prefer.dtype
        return NoisyGame(
            game.prefer,
            jax.random.uniform(votes_key, (self.samples, actions), dtype),
            jax.random.uniform(draws_key, (self.samples,), dtype),
        )
