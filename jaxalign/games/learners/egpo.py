"""EGPO: extragradient on the regularised game (Zhou et al. 2025, arXiv 2503.08942), two gains a step.

half ∝ π^(1 - eta tau) anchor^(eta tau) exp(eta P(· ≻ π));  π' ∝ π^(1 - eta tau) anchor^(eta tau) exp(eta P(· ≻ half)).
Linear last-iterate convergence to the regularised equilibrium, at far larger steps than mirror descent allows.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Anchored
from jaxalign.games.mixture import geometric_mixture
from jaxalign.types import pytree


@pytree
class EGPO:
    """`eta` is the step size, `tau` (the paper's beta) the pull to the start."""

    eta: Real = 0.3
    tau: Real = 0.1

    def init(self, game: Game, start: Float[Array, " v"]) -> Anchored:
        return Anchored(start, start)

    def step(self, game: Game, state: Anchored, t: Int[Array, ""]) -> Anchored:
        pulled = geometric_mixture(state.logp, state.anchor, self.eta * self.tau)
        half = jax.nn.log_softmax(pulled + self.eta * game.gain(jnp.exp(state.logp)))
        return Anchored(jax.nn.log_softmax(pulled + self.eta * game.gain(jnp.exp(half))), state.anchor)
