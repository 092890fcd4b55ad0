"""Multiplicative weights: π' ∝ π exp(eta P(· ≻ π)).

In expectation this is iterative IPO (IPO against the latest policy, pairs drawn from it) and DNO, and to first order in
eta SPPO (Wu et al. 2024, arXiv 2405.00675), which writes eta / 2 for the log-normaliser and fits a normalised policy to
that by least squares. Its last iterate spirals away from an interior equilibrium, while its average converges; a pure
equilibrium it reaches.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Plain
from jaxalign.types import pytree


@pytree
class MWU:
    """`eta` is the step size."""

    eta: Real = 0.3

    def init(self, game: Game, start: Float[Array, " v"]) -> Plain:
        return Plain(start)

    def step(self, game: Game, state: Plain, t: Int[Array, ""]) -> Plain:
        return Plain(jax.nn.log_softmax(state.logp + self.eta * game.gain(jnp.exp(state.logp))))
