"""Populations of users for the (k + 1)-player game: rankings [o v] from worst to best, and weights [o].

Rankings are strict. Users who like actions alike have ties besides, `ordered` by what actions are worth to them: they
are no mixture of users who do not (see `universal`).
"""

import itertools

import numpy as np
from jaxtyping import Bool, Float, Int

Population = tuple[Int[np.ndarray, "o v"], Float[np.ndarray, " o"]]


def two_types(share: float) -> Population:
    """Actions a, b: `share` of the users prefer a. Its equilibrium at k = 1 is the majority's action alone.

    Raises ValueError unless share is within [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is {share}; it is a fraction of users, within [0, 1]")
    return np.array([[1, 0], [0, 1]]), np.array([share, 1.0 - share])


def condorcet(weights: Float[np.ndarray, " o"]) -> Population:
    """As many actions as users, user o ranking o > o + 1 > … > o - 1 cyclically: the majority cycles."""
    size = len(weights)
    order = (np.arange(size)[:, None] + np.arange(size)[None, ::-1]) % size
    return order, weights / weights.sum()


def random_rankings(rng: np.random.Generator, users: int, actions: int) -> Population:
    """Users with independent uniform rankings and Dirichlet(1) weights."""
    return np.argsort(rng.random((users, actions)), axis=-1), rng.dirichlet(np.ones(users))


def random_utility(rng: np.random.Generator, scores: Float[np.ndarray, " v"], users: int, noise: float) -> Population:
    """Users who add Gumbel(`noise`) utility to common scores: their choices tend to a Plackett-Luce model's.

    Raises ValueError unless noise is positive.
    """
    if noise <= 0.0:
        raise ValueError(f"noise is {noise}; it must be positive")
    utility = scores[None, :] + noise * rng.gumbel(size=(users, len(scores)))
    return np.argsort(utility, axis=-1), np.full(users, 1.0 / users)


def all_rankings(actions: int) -> Population:
    """Every ranking with equal weight: no policy beats k / (k + 1) by more than k / v here.

    Raises ValueError for more than 7 actions, which have too many.
    """
    if actions > 7:
        raise ValueError(f"{actions} actions have too many rankings to list; at most 7")
    order = np.array(list(itertools.permutations(range(actions))))
    return order, np.full(len(order), 1.0 / len(order))


def ordered(utility: Float[np.ndarray, "o v"]) -> tuple[Int[np.ndarray, "o v"], Bool[np.ndarray, "o v"]]:
    """Rankings from worst to best of users to whom actions are worth so much, and which ranks are tied with the one
    before: `order` and `tied` of `universal.PopulationGame`."""
    order = np.argsort(utility, axis=-1, kind="stable")
    worth = np.take_along_axis(utility, order, axis=-1)
    return order, np.pad(worth[:, 1:] == worth[:, :-1], ((0, 0), (1, 0)))
