"""Iterative DPO: an exact Bradley-Terry fit to pairs from the policy, then the KL-regularised optimum.

Rewards r solve E_{y' ~ π} [σ(r(y) - r(y')) - P(y ≻ y')] = 0 for every y: the stationarity of DPO's population loss
(Rafailov et al. 2023, arXiv 2305.18290) over pairs from π with π as reference; then π' ∝ π exp(r / beta). It treats
cyclic preferences as transitive: where the equilibrium is mixed it hops between vertices, or spirals out; a pure one it
reaches.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.games.game import MatrixGame, Real
from jaxalign.games.learner import Plain
from jaxalign.types import pytree

FLOOR = 1e-6
"""Preferences are kept this far from 0 and 1: a certain preference has no finite Bradley-Terry fit."""


def fit(prefer: Float[Array, "v v"], policy: Float[Array, " v"], steps: int = 30) -> Float[Array, " v"]:
    """Bradley-Terry rewards [v] of the population fit under pairs from `policy`, their mean under it zero.

    Newton's method on the equations divided by π(y), so that they stay well scaled at a vertex, with the
    step bounded: the loss is convex and its curvature changes by a bounded factor over a unit of reward.
    """
    target = jnp.clip(prefer, FLOOR, 1.0 - FLOOR) @ policy

    def newton(reward: Float[Array, " v"], _: None) -> tuple[Float[Array, " v"], None]:
        win = jax.nn.sigmoid(reward[:, None] - reward[None, :])
        slope = win * (1.0 - win) * policy[None, :]
        # The loss is blind to a constant in the rewards; ones πᵀ pins their mean and keeps the system regular.
        system = jnp.diag(slope.sum(1)) - slope + policy[None, :]
        move = jnp.linalg.solve(system, target - win @ policy - policy @ reward)
        return reward + move / jnp.maximum(1.0, jnp.abs(move).max()), None

    return jax.lax.scan(newton, jnp.zeros_like(policy), None, length=steps)[0]


@pytree
class IterDPO:
    """`beta` multiplies the KL, as in DPO: a small one is a large step."""

    beta: Real = 0.5

    def init(self, game: MatrixGame, start: Float[Array, " v"]) -> Plain:
        return Plain(start)

    def step(self, game: MatrixGame, state: Plain, t: Int[Array, ""]) -> Plain:
        reward = fit(game.prefer, jnp.exp(state.logp))
        return Plain(jax.nn.log_softmax(state.logp + reward / self.beta))
