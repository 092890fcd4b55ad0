"""COMAL with exact inner solutions, the conceptual proximal-point method (Liu et al. 2024, arXiv 2410.23223, Alg. 1).

Each step solves the game regularised around the current policy: KL(π* ‖ π) never increases, and falls by at least
KL(π' ‖ π) a step (Lemma 4 there), for every tau > 0. Where tau is so small that the solver's limit comes first, a step
is not exact; the state says what it has left.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.prox import Solved, solved
from jaxalign.types import pytree


@pytree
class ComalExact:
    """`tau` is the pull to the anchor: the smaller, the fewer steps."""

    tau: Real = 0.1

    def init(self, game: Game, start: Float[Array, " v"]) -> Solved:
        return Solved(start, jnp.zeros((), start.dtype))

    def step(self, game: Game, state: Solved, t: Int[Array, ""]) -> Solved:
        return solved(game, state.logp, self.tau)
