"""Online IPO and IPO-MD: gradient steps on the logits of a softmax policy (Calandriello et al. 2024,
arXiv 2403.08635).

The loss E (log π(w) μ(l) / π(l) μ(w) - 1 / (2 tau))² over pairs drawn from a stopped mixture ν ∝ π^(1 - mix)
anchor^mix (mix = 0 is online IPO) has, by its labels' law, the gradient 4 ν(y) (f(y) - E_ν f) in the logit of y,
with f = log π / anchor - P(· ≻ ν) / tau. It vanishes at the regularised equilibrium for mix = 0. The step below is
tau eta / 4 times that gradient, so that dividing by ν(y) would give INPO's step: plain gradient descent moves rare
actions slowly, mirror descent does not.
"""

import jax
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Anchored
from jaxalign.games.mixture import geometric_mixture
from jaxalign.types import pytree


@pytree
class OnlineIPO:
    """`eta` is the step size on the logits, `tau` the pull to the start, `mix` the anchor's share in the pairs."""

    eta: Real = 0.3
    tau: Real = 0.1
    mix: Real = 0.0

    def init(self, game: Game, start: Float[Array, " v"]) -> Anchored:
        return Anchored(start, start)

    def step(self, game: Game, state: Anchored, t: Int[Array, ""]) -> Anchored:
        law = jax.nn.softmax(geometric_mixture(state.logp, state.anchor, self.mix))
        advantage = game.gain(law) - self.tau * (state.logp - state.anchor)
        return Anchored(
            jax.nn.log_softmax(state.logp + self.eta * law * (advantage - law @ advantage)),
            state.anchor,
        )
