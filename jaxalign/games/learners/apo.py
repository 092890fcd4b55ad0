"""COMAL with momentum-accelerated anchors, after accelerated preference optimisation (He et al. 2024,
arXiv 2410.06293).

After each `inner` steps with solution s, the next anchor is extrapolated: anchor ∝ s (s / s₋₁)^momentum, with s₋₁
the solution before. The paper accelerates iterative DPO and SPPO on transitive preferences; using it on COMAL's
anchor is ours. In a cyclic game the iterates rotate: where the anchor is a solution of the inner game momentum slows
every frequency, and from 1/3 on the slowest ones grow, whatever `inner` is (its rounds, linearised, have the roots of
z² - rho (1 + momentum) z + rho momentum, rho = tau / (tau - i omega)).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Anchored
from jaxalign.games.learners.inpo import mirror_step
from jaxalign.types import pytree


@pytree
class Accelerated:
    """The policy, the anchor and the last stage's solution."""

    logp: Float[Array, " v"]
    anchor: Float[Array, " v"]
    solution: Float[Array, " v"]


@pytree
class APO:
    """COMAL's fields and `momentum`, the exponent of the extrapolation (0 is COMAL)."""

    eta: Real = 0.3
    tau: Real = 0.1
    inner: Int[Array, "..."] | int = 100
    momentum: Real = 0.3

    def init(self, game: Game, start: Float[Array, " v"]) -> Accelerated:
        return Accelerated(start, start, start)

    def step(self, game: Game, state: Accelerated, t: Int[Array, ""]) -> Accelerated:
        logp = mirror_step(game, Anchored(state.logp, state.anchor), self.eta, self.tau)
        ahead = jax.nn.log_softmax(logp + self.momentum * (logp - state.solution))
        swap = (t + 1) % self.inner == 0
        return Accelerated(
            jnp.where(swap, ahead, logp),
            jnp.where(swap, ahead, state.anchor),
            jnp.where(swap, logp, state.solution),
        )
