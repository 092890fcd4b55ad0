"""Users who pick one of k + 1 answers as an oracle: the (k + 1)-player game of universal alignment.

Cai & Zheng 2026 (arXiv 2601.08777). u_k(y) is the chance that y is picked over k answers of the policy that sampled
(see `jaxalign.games.universal`). A loss that regresses on pairs wants a number for each pair:

    P(i ≻ j) = 1/2 + (u_k(i) − u_k(j)) / 2

so that least squares on all pairs take one mirror-descent step along u_k, of half the step size that the same loss has
on a matrix game (the half keeps P within [0, 1]). `nash/gap` of these preferences is max_y u_k(y) − 1/(k + 1): what the
policy's k samples lack of the optimal robust win rate k / (k + 1).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxalign.games.populations import Population
from jaxalign.games.universal import MOST, PopulationGame
from jaxalign.oracles.tabular import actions_of
from jaxalign.types import Preferences, Rollouts


@dataclass(frozen=True)
class RankingPopulation:
    """Oracle: action i is the response's first token; users rank all actions, strictly or not. Needs no key."""

    rankings: tuple[tuple[int, ...], ...]
    """each user's actions from worst to best, every action once"""
    weights: tuple[float, ...]
    """share of each user, positive, summing to 1"""
    k: int = 2
    """samples of the policy a deviation meets, 1 to 63"""
    tied: tuple[tuple[int, ...], ...] = ()
    """each user's ranks, the worst action's being 0, whose action it likes as much as that of the rank before; empty:
    nobody likes two alike"""

    meets_policy: ClassVar[bool] = True

    def problems(self) -> Iterable[str]:
        actions = sorted(self.rankings[0]) if self.rankings else []
        if not actions or actions != list(range(len(actions))):
            yield "rankings must hold at least one user, and each every action 0, 1, … once"
        for user, ranking in enumerate(self.rankings):
            if sorted(ranking) != actions:
                yield f"rankings[{user}] = {ranking} must be the same actions as those of user 0, each once"
        if len(self.weights) != len(self.rankings):
            yield f"there are {len(self.rankings)} rankings and {len(self.weights)} weights"
        elif min(self.weights, default=1.0) <= 0 or abs(sum(self.weights) - 1) > 1e-6:
            yield f"weights must be positive and sum to 1, got {self.weights}"
        if not 1 <= self.k <= MOST:
            yield f"k must lie in [1, {MOST}], got {self.k}"
        if self.tied and len(self.tied) != len(self.rankings):
            yield f"there are {len(self.rankings)} rankings and ties of {len(self.tied)} users"
        for user, ranks in enumerate(self.tied):
            if not set(ranks) <= set(range(1, len(actions))):
                yield f"tied[{user}] = {ranks} must be ranks from 1 to {len(actions) - 1}"

    @property
    def names(self) -> tuple[str, ...]:
        """What the users are called."""
        return tuple(f"user {user}" for user in range(len(self.rankings)))

    def users(self) -> Population:
        """Rankings [o v] and weights [o]."""
        return np.asarray(self.rankings), np.asarray(self.weights)

    def game(self) -> PopulationGame:
        """The same users as a game of `jaxalign.games`."""
        order, weights = self.users()
        tied = np.zeros(order.shape, bool)
        for user, ranks in enumerate(self.tied):
            tied[user, list(ranks)] = True
        return PopulationGame(
            jnp.asarray(order), jnp.asarray(weights), self.k, jnp.asarray(tied) if tied.any() else None
        )

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's actions; the policy is the weighted set of them.

        Raises:
            DataError: a response whose first token is no action; names prompt and response.
        """
        actions = actions_of(rollouts, len(self.rankings[0]))
        gains = np.stack([self._gains(*prompt) for prompt in zip(actions, rollouts.weights, strict=True)])
        by_user = 0.5 + 0.5 * (gains[..., :, None] - gains[..., None, :])
        return Preferences(
            annotators=self.names,
            weights=self.weights,
            prefer=np.einsum("o,boij->bij", np.asarray(self.weights), by_user).astype(np.float32),
            by_annotator=by_user.astype(np.float32),
            scores=gains.astype(np.float32),
        )

    def _gains(self, actions: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "o m"]:
        """u_k of each response for each user."""
        policy = np.bincount(actions, weights, len(self.rankings[0])) / weights.sum()
        return np.asarray(self.game().gain_by_user(jnp.asarray(policy, jnp.float32)), np.float64)[:, actions]


EXAMPLE = RankingPopulation(rankings=((2, 1, 0), (0, 2, 1), (1, 0, 2)), weights=(0.5, 0.3, 0.2), k=2)
