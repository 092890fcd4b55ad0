"""Magnetic preference optimisation: magnetic mirror descent with a periodic magnet (Wang et al. 2024,
arXiv 2410.16714).

π' ∝ [π magnet^(eta tau) exp(eta P(· ≻ π))]^(1 / (1 + eta tau)); every `inner` steps the magnet becomes the policy.
COMAL's outer loop with an implicit pull to the anchor: COMAL at the smaller step eta / (1 + eta tau), under its
conditions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Anchored
from jaxalign.games.learners.comal import swapped
from jaxalign.types import pytree


def magnetic_step(
    logp: Float[Array, " v"], magnet: Float[Array, " v"], gain: Float[Array, " v"], eta: Real, tau: Real
) -> Float[Array, " v"]:
    """argmax_μ <gain, μ> - tau KL(μ ‖ magnet) - KL(μ ‖ π) / eta, as log-probabilities."""
    return jax.nn.log_softmax((logp + eta * tau * magnet + eta * gain) / (1.0 + eta * tau))


@pytree
class Magnetic:
    """`eta` is the step size, `tau` the magnet's strength, `inner` the steps between its moves."""

    eta: Real = 0.3
    tau: Real = 0.1
    inner: Int[Array, "..."] | int = 100

    def init(self, game: Game, start: Float[Array, " v"]) -> Anchored:
        return Anchored(start, start)

    def step(self, game: Game, state: Anchored, t: Int[Array, ""]) -> Anchored:
        logp = magnetic_step(state.logp, state.anchor, game.gain(jnp.exp(state.logp)), self.eta, self.tau)
        return swapped(logp, state.anchor, t, self.inner)
