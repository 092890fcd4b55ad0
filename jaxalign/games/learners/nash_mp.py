"""Nash mirror-prox on the regularised game (Tiapkin et al. 2025, arXiv 2505.19731v1, eqs. of Nash-MP).

half = argmax_μ P(μ ≻ π) - tau KL(μ ‖ anchor) - KL(μ ‖ π) / eta, and π' the same against `half`. The paper's beta is
tau and its eta is eta tau here. Linear last-iterate convergence to the regularised equilibrium.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Anchored
from jaxalign.games.learners.magnetic import magnetic_step
from jaxalign.types import pytree


@pytree
class NashMP:
    """`eta` is the step size, `tau` the pull to the start."""

    eta: Real = 0.3
    tau: Real = 0.1

    def init(self, game: Game, start: Float[Array, " v"]) -> Anchored:
        return Anchored(start, start)

    def step(self, game: Game, state: Anchored, t: Int[Array, ""]) -> Anchored:
        half = magnetic_step(state.logp, state.anchor, game.gain(jnp.exp(state.logp)), self.eta, self.tau)
        logp = magnetic_step(state.logp, state.anchor, game.gain(jnp.exp(half)), self.eta, self.tau)
        return Anchored(logp, state.anchor)
