"""Pairs for the sampled learners, under `jit`: which two of the m sampled actions are compared.

Each rule maps (key, votes [n m m]) to two indices (chosen, rejected) for each of n prompts, and whether the vote on
that very pair orders it. Only a pair drawn at random makes a regression on it a mirror step; rules that rank change the
game that is solved (Liu et al. 2024, arXiv 2410.23223, and its released code, which takes best and second).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

Pair = tuple[Int[Array, " n"], Int[Array, " n"]]


@runtime_checkable
class Rule(Protocol):
    """(key, votes [n m m]) → (first, second) [n]: `votes[n, i, j]` is how surely i beat j."""

    def __call__(self, key: PRNGKeyArray, votes: Float[Array, "n m m"]) -> Pair: ...


@dataclass(frozen=True)
class RandomPair:
    """Two different samples at random: an i.i.d. pair from the policy, which is what the theorem needs."""

    def __call__(self, key: PRNGKeyArray, votes: Float[Array, "n m m"]) -> Pair:
        prompts, samples = votes.shape[:2]
        first_key, second_key = jax.random.split(key)
        first = jax.random.randint(first_key, (prompts,), 0, samples)
        other = jax.random.randint(second_key, (prompts,), 0, samples - 1)
        return first, jnp.where(other >= first, other + 1, other)


def ranks(votes: Float[Array, "n m m"]) -> Int[Array, "n m"]:
    """Indices of the samples by mean vote, best first; ties keep their order."""
    return jnp.argsort(-votes.mean(-1), axis=-1)


@dataclass(frozen=True)
class BestWorst:
    """The samples with the most and the fewest votes (INPO's paper)."""

    def __call__(self, key: PRNGKeyArray, votes: Float[Array, "n m m"]) -> Pair:
        order = ranks(votes)
        return order[:, 0], order[:, -1]


@dataclass(frozen=True)
class BestSecond:
    """The two samples with the most votes (COMAL's released code)."""

    def __call__(self, key: PRNGKeyArray, votes: Float[Array, "n m m"]) -> Pair:
        order = ranks(votes)
        return order[:, 0], order[:, 1]
