"""How far a policy is from equilibrium."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.games.game import Game


def exploitability(game: Game, logp: Float[Array, " v"]) -> Float[Array, ""]:
    """max_y gain(y) - value: the most that one player gains by deviating while the others play the policy."""
    return (game.gain(jnp.exp(logp)) - game.value).max()


def duality_gap(game: Game, logp: Float[Array, " v"]) -> Float[Array, ""]:
    """max_π₁ J(π₁, π) - min_π₂ J(π, π₂) = 2 max_y (P(y beats π) - 1/2): the factor 2 counts both players."""
    return 2.0 * exploitability(game, logp)


def exploitabilities(
    prefer: Float[Array, "v v"], row: Float[Array, " v"], column: Float[Array, " v"]
) -> Float[Array, " 2"]:
    """What each of two players (log-policies `row`, `column`) gains by its best response; zeros at equilibrium."""
    row_policy, column_policy = jnp.exp(row), jnp.exp(column)
    against_column = prefer @ column_policy
    against_row = row_policy @ prefer
    value = row_policy @ against_column
    return jnp.stack([against_column.max() - value, value - against_row.min()])
