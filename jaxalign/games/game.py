"""A symmetric game with one population of actions, as a learner sees it: a policy in, a gain per action out.

`gain(policy)[y]` is the probability that action y wins when everybody else draws from `policy`; at the game's
`value` nobody gains by deviating. For a preference matrix P the gain is P(y ≻ policy) and the value 1/2 (COMAL, Liu
et al. 2024, arXiv 2410.23223, the alignment game); `universal.PopulationGame` is the (k + 1)-player game.

Actions carry the letter v: a tabular policy is a softmax over a vocabulary of v one-token responses.
"""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxalign.types import pytree

Real = float | int | Float[Array, "..."] | Float[np.ndarray, "..."]
"""A hyper-parameter: a Python number, or an array when `vmap` sweeps over it."""

ABSENT = -1e4
"""Log-probability of an action that does not exist: finite, so that padded games of different sizes share a `vmap`
and no learner meets inf - inf, and far below where `exp` underflows to zero."""


@runtime_checkable
class Game(Protocol):
    """A symmetric game whose gains sum to `value` under the policy itself: sum_y policy(y) gain(y) = value."""

    @property
    def value(self) -> Float[Array, ""]:
        """What every player gets at a symmetric equilibrium."""
        ...

    def gain(self, policy: Float[Array, " v"]) -> Float[Array, " v"]:
        """Probability that each action wins against opponents who draw from `policy`."""
        ...


@pytree
class MatrixGame:
    """The alignment game of a preference matrix: `prefer[i, j]` = P(i beats j), `prefer` + its transpose = 1."""

    prefer: Float[Array, "v v"]

    @property
    def value(self) -> Float[Array, ""]:
        """1/2: each of two players wins half of the time."""
        return jnp.asarray(0.5, self.prefer.dtype)

    def gain(self, policy: Float[Array, " v"]) -> Float[Array, " v"]:
        """P(y beats policy) = sum_j prefer[y, j] policy[j]."""
        return self.prefer @ policy


def uniform(actions: int, dtype: DTypeLike = jnp.float32) -> Float[Array, " v"]:
    """Log-probabilities of the uniform policy."""
    return jnp.full(actions, -jnp.log(jnp.asarray(actions, dtype)), dtype)


def pad(prefer: Float[np.ndarray, "v v"], logp: Float[np.ndarray, " v"], actions: int) -> tuple[np.ndarray, np.ndarray]:
    """The same game and policy with absent actions up to `actions`: they lose to all and have probability zero."""
    size = len(logp)
    wide = np.full((actions, actions), 0.5, prefer.dtype)
    wide[:size, :size] = prefer
    wide[size:, :size], wide[:size, size:] = 0.0, 1.0
    return wide, np.concatenate([logp, np.full(actions - size, ABSENT, logp.dtype)])
