"""COMAL: INPO whose anchor becomes the policy every `inner` steps (Liu et al. 2024, arXiv 2410.23223, Alg. 1 - 3).

inner = 1 is MWU, inner = infinity is INPO. Where the equilibrium is mixed it diverges with too few inner steps;
`certificates.smallest_inner` tells how many are enough, and `adaptive_comal` needs no such number. With
eta >= 2 tau / (tau² + omega²), omega the game's largest frequency, at most 1/2, no number is enough but by chance.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Anchored
from jaxalign.games.learners.inpo import mirror_step
from jaxalign.types import pytree


def swapped(
    logp: Float[Array, " v"], anchor: Float[Array, " v"], t: Int[Array, ""], inner: Int[Array, "..."] | int
) -> Anchored:
    """The state after step t: the anchor becomes the policy every `inner` steps and stays what it was in between."""
    return Anchored(logp, jnp.where((t + 1) % inner == 0, logp, anchor))


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
        return swapped(logp, state.anchor, t, self.inner)
