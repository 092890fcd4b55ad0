"""Nash-MD: mirror descent from, and against, a mixture with the anchor (Munos et al. 2023, arXiv 2312.00886).

mix ∝ π^(1 - eta tau) anchor^(eta tau);  π' ∝ mix exp(eta P(· ≻ mix)). With a constant step it settles near, not at,
the regularised equilibrium: the opponent is the mixture.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Anchored
from jaxalign.games.mixture import geometric_mixture
from jaxalign.types import pytree


@pytree
class NashMD:
    """`eta` is the step size, `tau` the pull to the start."""

    eta: Real = 0.3
    tau: Real = 0.1

    def init(self, game: Game, start: Float[Array, " v"]) -> Anchored:
        return Anchored(start, start)

    def step(self, game: Game, state: Anchored, t: Int[Array, ""]) -> Anchored:
        mix = jax.nn.log_softmax(geometric_mixture(state.logp, state.anchor, self.eta * self.tau))
        return Anchored(jax.nn.log_softmax(mix + self.eta * game.gain(jnp.exp(mix))), state.anchor)
