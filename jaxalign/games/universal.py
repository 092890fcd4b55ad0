"""Universal alignment: the (k + 1)-player game in which k samples of one policy meet k-sample or single opponents.

Cai & Zheng 2026 (arXiv 2601.08777): a policy whose k-fold product wins against every single output with probability
k / (k + 1) exists, a symmetric equilibrium of the (k + 1)-player game, and no method does better in general. Users
rank the responses strictly; equal responses share a win. With F(y) the policy's mass below y for a user and m its mass
on y, the chance that y is that user's favourite among y and k samples of the policy is

    ∫₀¹ (F + s m)^k ds  =  ((F + m)^(k+1) - F^(k+1)) / ((k + 1) m)      (s: the tie-breaking position)

averaged over users: the gain u_k(y). It sums to 1 / (k + 1) under the policy.

The map π ↦ -u_k(π) is monotone for every population of rankings, so COMAL's outer loop converges on it for every k.
The paper does not say so; a proof: let F and G be the distribution functions of policies p and q along one user's
ranking, each action's mass spread evenly over its tie-breaking positions. Then <u(p), q> = ∫ F^k dG and
<u(p), p> = ∫ F^k dF = 1 / (k + 1), and by parts ∫ F^k dG = 1 - ∫ k G F^(k-1) dF, so that

    <u(p) - u(q), p - q> = 2 / (k + 1) - 1 + ∫ (k G F^(k-1) - G^k) dF  <=  2 / (k + 1) - 1 + ∫ (k - 1) F^k dF  =  0

since k G F^(k-1) - G^k is largest at G = F. For k >= 2 it is 0 only where F = G; for k = 1 always: the game is
zero-sum. An average over users keeps the sign.

Users who are indifferent between actions are no population here: they pick among equals of all k + 1 answers, which is
not what a mixture of strict rankings does. With k = 4, two actions and the policy (.8, .2), a user who does not care
gives both actions the gain 1/5; half a user of each ranking gives (.166, .336).
"""

from collections.abc import Iterator
from itertools import combinations_with_replacement

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Real
from jaxalign.types import pytree

NODES = 32
"""Gauss-Legendre nodes: exact for k <= 2 * NODES - 1 = 63 samples, whether k is traced or not. Beyond, the error would
grow in silence: relative to the gain 1e-8 at k = 200, a tenth at 1,000, all of it at 10,000. In fp32 the rounding of F
is raised to the power of k: 4e-7 of the game's value at k = 2, 1.5e-4 of it at 63."""

MOST = 2 * NODES - 1
"""Samples of the policy that gains are exact for."""

_points, _weights = np.polynomial.legendre.leggauss(NODES)
POSITIONS, SHARES = (_points + 1.0) / 2.0, _weights / 2.0


@pytree
class PopulationGame:
    """Users with rankings: `order[o]` lists user o's actions from worst to best, `weights` [o] sum to 1.

    `k` samples of the policy, 1 to 63, meet one deviator; k = 1 is the alignment game of the users' preferences. Raises
    ValueError for numbers outside; gains are NaN where a traced k is.
    """

    order: Int[Array, "o v"]
    weights: Float[Array, " o"]
    k: Real | Int[Array, ""] = 1

    def __post_init__(self) -> None:
        if not isinstance(self.k, jax.core.Tracer) and not np.all(
            (np.asarray(self.k) >= 1) & (np.asarray(self.k) <= MOST)
        ):
            raise ValueError(f"k is {self.k}; gains are exact for 1 to {MOST} samples")

    @property
    def value(self) -> Float[Array, ""]:
        """1 / (k + 1)."""
        return 1.0 / (1.0 + jnp.asarray(self.k, self.weights.dtype))

    def gain(self, policy: Float[Array, " v"]) -> Float[Array, " v"]:
        """u_k: the probability that each action, played once, is picked over k samples of `policy`."""
        return self.weights @ self.gain_by_user(policy)

    def gain_by_user(self, policy: Float[Array, " v"]) -> Float[Array, "o v"]:
        """The same for each user alone, unweighted."""
        below, mass = self._below(policy)
        positions = jnp.asarray(POSITIONS, policy.dtype)
        power = jnp.asarray(self.k, policy.dtype)
        # The floor keeps the derivative of 0^k out of log 0; it is far below the rounding of the rest.
        reached = jnp.maximum(
            below[..., None] + positions[None, None, :] * mass[..., None], jnp.finfo(policy.dtype).tiny
        )
        picked = jnp.exp(power * jnp.log(reached)) @ jnp.asarray(SHARES, policy.dtype)
        picked = jnp.where((power >= 1) & (power <= MOST), picked, jnp.nan)
        return jnp.zeros_like(picked).at[jnp.arange(len(picked))[:, None], self.order].set(picked)

    def _below(self, policy: Float[Array, " v"]) -> tuple[Float[Array, "o v"], Float[Array, "o v"]]:
        """For each user and rank: the policy's mass strictly below, and on, the action of that rank."""
        mass = policy[self.order]
        return jnp.cumsum(mass, axis=-1) - mass, mass


def robust_win_rate(game: PopulationGame, logp: Float[Array, " v"]) -> Float[Array, ""]:
    """min over single-output opponents of P(the k-fold product of the policy wins) = 1 - max_y u_k(y)."""
    return 1.0 - game.gain(jnp.exp(logp)).max()


def win_rate(game: PopulationGame, logp: Float[Array, " v"], opponent: Float[Array, " v"]) -> Float[Array, ""]:
    """P(the k-fold product of log-policy `logp` wins against one sample of log-policy `opponent`)."""
    return 1.0 - jnp.exp(opponent) @ game.gain(jnp.exp(logp))


def worst_against_sets(
    order: Int[np.ndarray, "o v"],
    weights: Float[np.ndarray, " o"],
    policy: Float[np.ndarray, " v"],
    k: int,
    opponents: int,
) -> float:
    """min over opponents with `opponents` (= ℓ) responses of P(one of k samples of `policy` is picked).

    Enumerates every multiset of ℓ responses, which suffices: the win rate is linear in the opponent's joint law. The
    opponents' best response, c times in the set, shares with j equals of it as c / (c + j) = ∫ c s^(c-1) s^j ds.
    """
    rank = np.argsort(order, axis=-1)
    sorted_mass = policy[order]
    below = np.take_along_axis(np.cumsum(sorted_mass, -1) - sorted_mass, rank, -1)

    def wins(chosen: tuple[int, ...]) -> float:
        best = rank[:, chosen].argmax(-1)
        actions = np.asarray(chosen)[best]
        count = (np.asarray(chosen)[None, :] == actions[:, None]).sum(-1)
        reached = below[np.arange(len(rank)), actions][:, None] + POSITIONS * policy[actions][:, None]
        density = count[:, None] * POSITIONS ** (count[:, None] - 1)
        return float(weights @ ((density * reached**k) @ SHARES))

    return 1.0 - max(wins(chosen) for chosen in _multisets(len(policy), opponents))


def _multisets(actions: int, size: int) -> Iterator[tuple[int, ...]]:
    return combinations_with_replacement(range(actions), size)


def guarantee(k: int, opponents: int = 1) -> float:
    """(k + 1 - ℓ) / (k + 1): what an equilibrium policy guarantees against ℓ responses; 0 for ℓ > k."""
    return max(0.0, (k + 1 - opponents) / (k + 1))


def ceiling(k: int, opponents: int = 1) -> float:
    """k / (k + ℓ): what no policy can exceed against ℓ responses, since the opponent may copy it."""
    return k / (k + opponents)


def step_size(actions: int, steps: int) -> float:
    """sqrt(8 ln |Y| / T): the step of multiplicative weights behind `regret_bound` (our constants)."""
    return float(np.sqrt(8.0 * np.log(actions) / steps))


def regret_bound(actions: int, steps: int) -> float:
    """sqrt(T ln |Y| / 2) for gains in [0, 1] at `step_size`: T times the loss of robustness of "draw t, then all k
    samples from π_t" below k / (k + 1)."""
    return float(np.sqrt(steps * np.log(actions) / 2.0))


def majority(order: Int[np.ndarray, "o v"], weights: Float[np.ndarray, " o"]) -> Float[np.ndarray, "v v"]:
    """The users' preference matrix: P(i beats j) is the weight of users who rank i above j; the game at k = 1."""
    rank = np.argsort(order, axis=-1)
    above = (rank[:, :, None] > rank[:, None, :]) + 0.5 * np.eye(order.shape[1])
    return np.einsum("o,oij->ij", weights, above)
