"""The numbers behind the figures of games: trajectories of every learner, and robust win rates of populations."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxalign.games.compare import configured, every_learner, log_policy, of_matrices
from jaxalign.games.game import Game, MatrixGame, uniform
from jaxalign.games.learner import run
from jaxalign.games.learners.adaptive_comal import AdaptiveComal
from jaxalign.games.metrics import duality_gap
from jaxalign.games.universal import PopulationGame, robust_win_rate


def trajectories(
    game: Game, start: Float[np.ndarray, " v"], steps: Sequence[int], settings: Mapping[str, Any]
) -> dict[str, tuple[Float[np.ndarray, "t v"], Float[np.ndarray, " t"]]]:
    """Learner → (policies, duality gaps) after each of `steps`, the start first; `settings` as for `configured`.

    Learners that need a preference matrix are left out where the game has none.
    """
    logp, at = jnp.asarray(log_policy(start)), jnp.asarray(steps)

    # The game is an argument: as a constant of the program it would be folded at compile time.
    def walk(learner: Any, game: Game) -> Any:
        found = run(learner, game, logp, at, int(max(steps))).logp
        found = jnp.concatenate([logp[None], found])
        return jnp.exp(found), jax.vmap(lambda each: duality_gap(game, each))(found)

    table = {}
    for name, learner in every_learner().items():
        if of_matrices(learner) and not isinstance(game, MatrixGame):
            continue
        policies, gaps = jax.jit(walk)(configured(learner, **settings), game)
        table[name] = np.asarray(policies), np.asarray(gaps)
    return table


def robust_curves(
    users: PopulationGame, samples: Sequence[int], steps: int = 4000
) -> dict[str, Float[np.ndarray, " t"]]:
    """Robust win rate against k of three policies: the (k + 1)-player equilibrium of that k, the two-player Nash
    policy of the same users, and the uniform policy; each drawn k times."""
    start = uniform(users.order.shape[1], users.weights.dtype)
    at = jnp.asarray([steps])

    def solved(k: Any) -> Any:
        return run(AdaptiveComal(), dataclasses.replace(users, k=k), start, at, steps).logp[0]

    def rate(k: Any, logp: Any) -> Any:
        return robust_win_rate(dataclasses.replace(users, k=k), logp)

    every = jnp.asarray(samples)
    solutions = jax.jit(jax.vmap(solved))(every)
    nash = jax.jit(solved)(jnp.asarray(1))
    return {
        "(k+1)-player equilibrium": np.asarray(jax.vmap(rate)(every, solutions)),
        "two-player Nash policy": np.asarray(jax.vmap(rate, in_axes=(0, None))(every, nash)),
        "uniform policy": np.asarray(jax.vmap(rate, in_axes=(0, None))(every, start)),
    }
