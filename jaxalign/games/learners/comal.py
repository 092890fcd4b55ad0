"""COMAL: INPO whose anchor becomes the policy every `inner` steps (Liu et al. 2024, arXiv 2410.23223, Alg. 1 - 3).

inner = 1 is MWU, inner = infinity is INPO. With too few inner steps it diverges; `certificates.contraction` tells
how many are enough, and `adaptive_comal` needs no such number.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Anchored
from jaxalign.games.learners.inpo import mirror_step
from jaxalign.types import pytree


@pytree
class Comal:
    """`eta` is the step size, `tau` the pull to the anchor, `inner` the steps between swaps."""

    eta: Real = 0.3
    tau: Real = 0.1
    inner: Int[Array, "..."] | int = 100

    def init(self, game: Game, start: Float[Array, " v"]) -> Anchored:
        return Anchored(start, start)

    def step(self, game: Game, state: Anchored, t: Int[Array, ""]) -> Anchored:
        logp = mirror_step(game, state, self.eta, self.tau)
        swap = (t + 1) % self.inner == 0
        return Anchored(logp, jnp.where(swap, logp, state.anchor))
