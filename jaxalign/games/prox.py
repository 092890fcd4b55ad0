"""The regularised game around an anchor, its best response, its gap, and its exact solution (the proximal point).

J_tau(π, μ) = J(π, μ) - tau KL(π ‖ anchor) + tau KL(μ ‖ anchor) with anchor and tau as in COMAL (Liu et al. 2024,
arXiv 2410.23223 v2): tau multiplies the KL. The best response to π is BR(π) ∝ anchor exp(gain(π) / tau); the unique
symmetric equilibrium is its fixed point. Ours, proved in the tests:

    regularised gap  max_μ J_tau(μ, π) = tau KL(π ‖ BR(π))                 for every π
    and it is also   tau KL(π ‖ π*_tau) + tau KL(π*_tau ‖ BR(π))           for a zero-sum game,

so one evaluation of the gain bounds the distance to the unknown solution.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalign.games.divergence import kl
from jaxalign.games.game import Game, Real
from jaxalign.types import pytree


def best_response(game: Game, logp: Float[Array, " v"], anchor: Float[Array, " v"], tau: Real) -> Float[Array, " v"]:
    """Log-probabilities of BR(π) ∝ anchor exp(gain(π) / tau)."""
    return jax.nn.log_softmax(anchor + game.gain(jnp.exp(logp)) / tau)


def regularised_gap(game: Game, logp: Float[Array, " v"], anchor: Float[Array, " v"], tau: Real) -> Float[Array, ""]:
    """max_μ J_tau(μ, π) = tau KL(π ‖ BR(π)): what one player can gain; the duality gap is twice this."""
    return jnp.asarray(tau * kl(logp, best_response(game, logp, anchor, tau)))


def newton_step(game: Game, logp: Float[Array, " v"], anchor: Float[Array, " v"], tau: Real) -> Float[Array, " v"]:
    """One damped Newton step on l - anchor - gain(softmax l) / tau = 0; the best of eight step lengths.

    The Jacobian I - gain' (diag π - π πᵀ) / tau is never singular for a zero-sum game: its eigenvalues are
    1 ± i omega / tau. The regularised gap decides the length: it is convex and vanishes at the solution only.
    """
    policy = jnp.exp(logp)
    residual = logp - best_response(game, logp, anchor, tau)
    slope = jax.jacfwd(game.gain)(policy)
    spread = jnp.diag(policy) - policy[:, None] * policy[None, :]
    jacobian = jnp.eye(policy.size, dtype=policy.dtype) - slope @ spread / tau
    direction = jnp.linalg.solve(jacobian, residual)
    lengths = 0.5 ** jnp.arange(8, dtype=policy.dtype)
    trials = jax.nn.log_softmax(logp[None, :] - lengths[:, None] * direction[None, :], axis=-1)
    gaps = jax.vmap(lambda trial: regularised_gap(game, trial, anchor, tau))(trials)
    return trials[jnp.argmin(jnp.where(jnp.isnan(gaps), jnp.inf, gaps))]


def prox(game: Game, anchor: Float[Array, " v"], tau: Real, limit: int = 60) -> Float[Array, " v"]:
    """Log-probabilities of the equilibrium π*_tau of the game regularised around `anchor`; see `solved`."""
    return solved(game, anchor, tau, limit).logp


@pytree
class Solved:
    """Log-probabilities, and the regularised gap that is left: 0 but for rounding unless the limit came first."""

    logp: Float[Array, " v"]
    gap: Float[Array, ""]


def solved(game: Game, anchor: Float[Array, " v"], tau: Real, limit: int = 60) -> Solved:
    """The equilibrium π*_tau of the game regularised around `anchor`, and what is left of it.

    Newton's method, far from the solution along a path of falling regularisation from 64 tau, until the gap stops
    falling or after `limit` steps. O(v³) a step: for games of up to some hundred actions. For tau far below the game's
    gains the limit may come first, and then the gap says so.
    """

    def unfinished(
        carry: tuple[Float[Array, " v"], Float[Array, ""], Float[Array, ""], Int[Array, ""]],
    ) -> Bool[Array, ""]:
        _, power, gap, step = carry
        return (step < limit) & ((power > 0.0) | (gap > 0.0))

    def improve(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        logp, power, before, step = carry
        logp_next = newton_step(game, logp, anchor, tau * 2.0**power)
        gap = regularised_gap(game, logp_next, anchor, tau)
        # Rounding has been reached when a step at the final tau no longer lowers the gap: keep the better policy.
        stuck = (power <= 0.0) & (gap >= before)
        logp_next = jnp.where(stuck, logp, logp_next)
        return logp_next, jnp.maximum(power - 0.5, 0.0), jnp.where(stuck, 0.0, gap), step + 1

    gap = regularised_gap(game, anchor, anchor, tau)
    power = jnp.where(gap > 0.1 * tau, 6.0, 0.0).astype(anchor.dtype)
    logp = jax.lax.while_loop(unfinished, improve, (anchor, power, gap, jnp.asarray(0)))[0]
    return Solved(logp, regularised_gap(game, logp, anchor, tau))
