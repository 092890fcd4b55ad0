"""INPO: mirror descent on the game regularised around a fixed anchor (Zhang et al. 2024, arXiv 2407.00617, eq. 5).

π' ∝ π^(1 - eta tau) anchor^(eta tau) exp(eta P(· ≻ π)); COMAL's Algorithm 2. With the paper's eta, which multiplies
the KL, eta here is its inverse. For eta below 2 tau / (tau² + omega²), omega the largest frequency of the game there,
the last iterate converges to the regularised equilibrium, a constant gap away; above, it circles.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Anchored
from jaxalign.games.mixture import geometric_mixture
from jaxalign.types import pytree


def mirror_step(game: Game, state: Anchored, eta: Real, tau: Real) -> Float[Array, " v"]:
    """Log-policy after one mirror-descent step on the game regularised around `state.anchor`."""
    gain = game.gain(jnp.exp(state.logp))
    return jax.nn.log_softmax(geometric_mixture(state.logp, state.anchor, eta * tau) + eta * gain)


@pytree
class INPO:
    """`eta` is the step size, `tau` the strength of the pull to the start."""

    eta: Real = 0.3
    tau: Real = 0.1

    def init(self, game: Game, start: Float[Array, " v"]) -> Anchored:
        return Anchored(start, start)

    def step(self, game: Game, state: Anchored, t: Int[Array, ""]) -> Anchored:
        return Anchored(mirror_step(game, state, self.eta, self.tau), state.anchor)
