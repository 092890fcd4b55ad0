"""DNO's practical form: gradient steps towards the winners of pairs that win rates tell apart (Rosset et al. 2024,
DNO-Prct, arXiv 2404.03715, section 4).

    log π' = log π + eta Σ_y' w(y, y') sign(r(y) - r(y')),        r = P(· ≻ π)
    w(y, y') ∝ π(y) π(y') where |r(y) - r(y')| >= margin, else 0;  Σ w = 1 over unordered pairs

is the gradient step of DPO with beta on such pairs, from and against π itself, at the rate 2 eta / beta: there every
pair pulls alike. How far apart two win rates are beyond `margin` does not count, so it is no step of the game, and it
has no minimiser to go to. It halts where no win rates are `margin` apart.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Plain
from jaxalign.types import pytree


@pytree
class DNOPairs:
    """`eta` is the step size on the logits, `margin` what tells two win rates apart."""

    eta: Real = 0.3
    margin: Real = 0.1

    def init(self, game: Game, start: Float[Array, " v"]) -> Plain:
        return Plain(start)

    def step(self, game: Game, state: Plain, t: Int[Array, ""]) -> Plain:
        policy = jnp.exp(state.logp)
        reward = game.gain(policy)
        ahead = reward[:, None] - reward[None, :]
        weight = jnp.where(jnp.abs(ahead) >= self.margin, policy[:, None] * policy[None, :], 0.0)
        total = jnp.maximum(weight.sum() / 2, jnp.finfo(policy.dtype).tiny)  # 0 where no two are apart
        return Plain(jax.nn.log_softmax(state.logp + self.eta * (weight * jnp.sign(ahead)).sum(1) / total))
