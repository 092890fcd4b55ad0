"""Optimistic multiplicative weights: π' ∝ π exp(eta (2 P(· ≻ π) - P(· ≻ π₋₁))) (arXiv 2512.24818 for preferences).

Last iterate converges to the unregularised equilibrium at a small eta, linearly after a burn-in: proved where it has
full support, and seen, more slowly, where it has not.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.types import pytree


@pytree
class Optimistic:
    """The policy and the gain it was updated with last."""

    logp: Float[Array, " v"]
    gain: Float[Array, " v"]


@pytree
class OMWU:
    """`eta` is the step size. The first step, without a past, is one of plain multiplicative weights."""

    eta: Real = 0.3

    def init(self, game: Game, start: Float[Array, " v"]) -> Optimistic:
        return Optimistic(start, game.gain(jnp.exp(start)))

    def step(self, game: Game, state: Optimistic, t: Int[Array, ""]) -> Optimistic:
        gain = game.gain(jnp.exp(state.logp))
        return Optimistic(jax.nn.log_softmax(state.logp + self.eta * (2.0 * gain - state.gain)), gain)
