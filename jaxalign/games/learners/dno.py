"""DNO: regression of policy log-ratios on reward differences by cross-entropy (Rosset et al. 2024, arXiv 2404.03715).

Over pairs from π the loss -E [q log σ(d) + (1 - q) log σ(-d)], d = (ρ(y) - ρ(y')) / eta with ρ = log π' / π and
q = σ(r(y) - r(y')), r = P(· ≻ π), is least where d = r(y) - r(y') for all pairs at once: ρ = eta r. The exact
minimiser is therefore the step of multiplicative weights; its paper's eta, which multiplies the KL, is 1 / eta here.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game, Real
from jaxalign.games.learner import Plain
from jaxalign.types import pytree


def cross_entropy(
    logp: Float[Array, " v"], last: Float[Array, " v"], reward: Float[Array, " v"], eta: Real
) -> Float[Array, ""]:
    """DNO's population loss of log-policy `logp` on pairs from `last`, nats."""
    ratio = (logp - last) / eta
    margin = ratio[:, None] - ratio[None, :]
    label = jax.nn.sigmoid(reward[:, None] - reward[None, :])
    pair = jnp.exp(last[:, None] + last[None, :])
    return -(pair * (label * jax.nn.log_sigmoid(margin) + (1.0 - label) * jax.nn.log_sigmoid(-margin))).sum()


@pytree
class DNO:
    """`eta` is the step size: the inverse of the paper's."""

    eta: Real = 0.3

    def init(self, game: Game, start: Float[Array, " v"]) -> Plain:
        return Plain(start)

    def step(self, game: Game, state: Plain, t: Int[Array, ""]) -> Plain:
        reward = game.gain(jnp.exp(state.logp))
        return Plain(jax.nn.log_softmax(state.logp + self.eta * reward))
