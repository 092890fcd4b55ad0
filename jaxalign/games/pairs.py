"""Pairs for the sampled learners, under `jit`: which two of the m sampled actions are compared.

The rules are those of `jaxalign.pairs`, under the same names: an action is what a distinct text is there. Only a pair
drawn at random makes a regression on it a mirror step; rules that rank change the game that is solved (Liu et al. 2024,
arXiv 2410.23223, and its released code, which takes best and second). Which of the two is chosen, and how surely, is
for the vote on that very pair to say.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

Pair = tuple[Int[Array, " n"], Int[Array, " n"]]


@runtime_checkable
class Rule(Protocol):
    """(key, actions [n m], votes [n m m]) → two samples' indices [n]: `votes[n, i, j]` is how surely i beat j."""

    def __call__(self, key: PRNGKeyArray, actions: Int[Array, "n m"], votes: Float[Array, "n m m"]) -> Pair: ...


@dataclass(frozen=True)
class RandomPair:
    """Two different samples at random: an i.i.d. pair from the policy, which is what the theorem needs.

    They may be of one action. Such a pair has no gradient; `jaxalign.pairs` leaves it out and weighs the others.
    """

    def __call__(self, key: PRNGKeyArray, actions: Int[Array, "n m"], votes: Float[Array, "n m m"]) -> Pair:
        prompts, samples = actions.shape
        first_key, second_key = jax.random.split(key)
        first = jax.random.randint(first_key, (prompts,), 0, samples)
        other = jax.random.randint(second_key, (prompts,), 0, samples - 1)
        return first, jnp.where(other >= first, other + 1, other)


def ranking(actions: Int[Array, "n m"], votes: Float[Array, "n m m"]) -> tuple[Int[Array, "n m"], Int[Array, " n"]]:
    """Indices of the first sample of each distinct action, best first, and how many there are; other samples follow.

    By the mean vote against the other distinct actions; ties by action, lower first: as `jaxalign.pairs.ranking`.
    """
    same = actions[:, :, None] == actions[:, None, :]
    distinct = same.argmax(-1) == jnp.arange(actions.shape[1])[None]
    score = jnp.where(distinct, jnp.where(distinct[:, None, :], votes, 0.0).sum(-1), -jnp.inf)
    return jnp.lexsort((actions, -score), axis=-1), distinct.sum(-1)


@dataclass(frozen=True)
class BestWorst:
    """Rank 1 against the last rank of the distinct actions (INPO's paper); of a single one, a pair with itself."""

    def __call__(self, key: PRNGKeyArray, actions: Int[Array, "n m"], votes: Float[Array, "n m m"]) -> Pair:
        order, count = ranking(actions, votes)
        return order[:, 0], order[jnp.arange(len(order)), count - 1]


@dataclass(frozen=True)
class BestSecond:
    """Rank 1 against rank 2 of the distinct actions (COMAL's released code); of a single one, a pair with itself."""

    def __call__(self, key: PRNGKeyArray, actions: Int[Array, "n m"], votes: Float[Array, "n m m"]) -> Pair:
        order, count = ranking(actions, votes)
        return order[:, 0], order[jnp.arange(len(order)), jnp.minimum(1, count - 1)]
