"""ONPO: optimistic online mirror descent with an auxiliary policy (Zhang et al. 2025, arXiv 2502.16852).

aux' ∝ aux exp(eta P(· ≻ π));  π' ∝ aux' exp(eta P(· ≻ π)): two fits on the same data. From the second step on this
is OMWU; its first step uses the gain twice, where OMWU uses it once.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.types import pytree


@pytree
class Auxiliary:
    """The policy that plays and the auxiliary one that accumulates."""

    logp: Float[Array, " v"]
    auxiliary: Float[Array, " v"]


@pytree
class ONPO:
    """`eta` is the step size of both fits."""

    eta: Real = 0.3

    def init(self, game: Game, start: Float[Array, " v"]) -> Auxiliary:
        return Auxiliary(start, start)

    def step(self, game: Game, state: Auxiliary, t: Int[Array, ""]) -> Auxiliary:
        move = self.eta * game.gain(jnp.exp(state.logp))
        auxiliary = jax.nn.log_softmax(state.auxiliary + move)
        return Auxiliary(jax.nn.log_softmax(auxiliary + move), auxiliary)
