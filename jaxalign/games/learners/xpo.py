"""XPO: exploratory preference optimisation, the exact minimiser of its population loss. Xie et al. 2024
(arXiv 2405.21046), algorithm 1.

    r = argmin E_{y ~ π, z ~ anchor} −log-likelihood of P(y ≻ z) under σ(beta (r(y) − r(z))) + alpha E_z log π_r(z)
    π_r ∝ anchor exp(r)

The anchor is where it starts. The paper's theorem is of the Bradley-Terry model and of the pairs of all rounds; here
each fit sees those of its own round. For alpha 0 and while the policy is its anchor it is `IterDPO`. The second term
has no lower bound: an alpha that is large beside beta has no minimiser, and then this ends at no fixed point.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import MatrixGame, Real
from jaxalign.games.learner import Anchored
from jaxalign.games.learners.iter_dpo import FLOOR
from jaxalign.types import pytree


def loss(
    prefer: Float[Array, "v v"],
    policy: Float[Array, " v"],
    anchor: Float[Array, " v"],
    beta: Real,
    alpha: Real,
    ratio: Float[Array, " v"],
) -> Float[Array, ""]:
    """The population loss (nats) at log-ratios `ratio` to the anchor, known but for a constant; policies in logs."""
    z = beta * (ratio[:, None] - ratio[None, :])
    likelihood = prefer * jax.nn.log_sigmoid(z) + (1.0 - prefer) * jax.nn.log_sigmoid(-z)
    normalised = ratio - jax.nn.logsumexp(anchor + ratio)
    return jnp.exp(anchor) @ (alpha * normalised) - jnp.exp(policy) @ likelihood @ jnp.exp(anchor)


def fit(
    prefer: Float[Array, "v v"],
    policy: Float[Array, " v"],
    anchor: Float[Array, " v"],
    beta: Real,
    alpha: Real,
    steps: int = 30,
) -> Float[Array, " v"]:
    """Log-ratios to the anchor at the minimum, by Newton's method with the step bounded, on the scale of z."""
    there = jnp.exp(anchor)
    objective = partial(loss, jnp.clip(prefer, FLOOR, 1.0 - FLOOR), policy, anchor, beta, alpha)

    def newton(ratio: Float[Array, " v"], _: None) -> tuple[Float[Array, " v"], None]:
        # The loss is blind to a constant and to actions that the anchor never takes: both are kept where they are.
        system = jax.hessian(objective)(ratio) + jnp.outer(there, there) + jnp.diag(jnp.where(there > 0, 0.0, 1.0))
        move = jnp.linalg.solve(system, -jax.grad(objective)(ratio))
        return ratio + move / jnp.maximum(1.0, beta * jnp.abs(move).max()), None

    return jax.lax.scan(newton, jnp.zeros_like(policy), None, length=steps)[0]


@pytree
class XPO:
    """`beta` multiplies the KL, `alpha` the optimism."""

    beta: Real = 0.5
    alpha: Real = 0.01

    def init(self, game: MatrixGame, start: Float[Array, " v"]) -> Anchored:
        return Anchored(start, start)

    def step(self, game: MatrixGame, state: Anchored, t: Int[Array, ""]) -> Anchored:
        ratio = fit(game.prefer, state.logp, state.anchor, self.beta, self.alpha)
        return Anchored(jax.nn.log_softmax(state.anchor + ratio), state.anchor)
