"""COMAL with exact inner solutions, the conceptual proximal-point method (Liu et al. 2024, arXiv 2410.23223, Alg. 1).

Each step solves the game regularised around the current policy: KL(π* ‖ π) never increases, and falls by at least
KL(π' ‖ π) a step (Lemma 4 there), for every tau > 0.
"""

from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Plain
from jaxalign.games.prox import prox
from jaxalign.types import pytree


@pytree
class ComalExact:
    """`tau` is the pull to the anchor: the smaller, the fewer steps."""

    tau: Real = 0.1

    def init(self, game: Game, start: Float[Array, " v"]) -> Plain:
        return Plain(start)

    def step(self, game: Game, state: Plain, t: Int[Array, ""]) -> Plain:
        return Plain(prox(game, state.logp, self.tau))
