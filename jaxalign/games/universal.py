"""Universal alignment: the (k + 1)-player game in which k samples of one policy meet k-sample or single opponents.

Cai & Zheng 2026 (arXiv 2601.08777): a policy whose k-fold product wins against every single output with probability
k / (k + 1) exists, a symmetric equilibrium of the (k + 1)-player game, and no method does better in general. A user
picks what it likes best among k + 1 answers; those that it likes alike share the pick, equal answers among them. With
F(y) the policy's mass on what a user likes less than y, and m its mass on what it likes as much (y alone where it ranks
strictly), the chance that y is picked from y and k samples of the policy is

    ∫₀¹ (F + s m)^k ds  =  ((F + m)^(k+1) - F^(k+1)) / ((k + 1) m)      (s: the tie-breaking position)

averaged over users: the gain u_k(y). It sums to 1 / (k + 1) under the policy.

The map π ↦ -u_k(π) is monotone for every population of rankings, so COMAL's outer loop converges on it for every k.
The paper does not say so; a proof: let F and G be the distribution functions of policies p and q along one user's
ranking, the mass of actions that it likes alike spread evenly over their tie-breaking positions. Then <u(p), q> =
∫ F^k dG and <u(p), p> = ∫ F^k dF = 1 / (k + 1), and by parts ∫ F^k dG = 1 - ∫ k G F^(k-1) dF, so that

    <u(p) - u(q), p - q> = 2 / (k + 1) - 1 + ∫ (k G F^(k-1) - G^k) dF  <=  2 / (k + 1) - 1 + ∫ (k - 1) F^k dF  =  0

since k G F^(k-1) - G^k is largest at G = F. For k >= 2 it is 0 only where F = G; for k = 1 always: the game is
zero-sum. An average over users keeps the sign.

A user who is indifferent is no mixture of users who are not. With k = 4, two actions and the policy (.8, .2), one who
does not care gives both actions the gain 1/5; half a user of each ranking gives (.166, .336).
"""

from collections.abc import Iterator
from itertools import combinations_with_replacement

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

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
    ValueError for numbers outside; gains are NaN where a traced k is. `tied[o, r]` says that user o likes its action of
    rank r as much as that of rank r - 1 (never of rank 0); None: all rankings are strict. See `populations.ordered`.
    """

    order: Int[Array, "o v"]
    weights: Float[Array, " o"]
    k: Real | Int[Array, ""] = 1
    tied: Bool[Array, "o v"] | None = None

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
        """For each user and rank: the policy's mass on what is liked less than the action of that rank, and as much."""
        mass = policy[self.order]
        reached = jnp.cumsum(mass, axis=-1)
        below = reached - mass
        if self.tied is None:
            return below, mass
        rank = jnp.arange(mass.shape[-1])[None]
        first = jax.lax.cummax(jnp.where(self.tied, 0, rank), axis=1)
        follows = jnp.pad(self.tied[:, 1:], ((0, 0), (0, 1)))
        last = jax.lax.cummin(jnp.where(follows, rank[:, -1:], rank), axis=1, reverse=True)
        below = jnp.take_along_axis(below, first, axis=-1)
        return below, jnp.take_along_axis(reached, last, axis=-1) - below


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
    tied: Bool[np.ndarray, "o v"] | None = None,
) -> float:
    """min over opponents with `opponents` (= ℓ) responses of P(one of k samples of `policy` is picked).

    Enumerates every multiset of ℓ responses, which suffices: the win rate is linear in the opponent's joint law. The
    opponents' best responses, c of them, share with j that are liked as much as c / (c + j) = ∫ c s^(c-1) s^j ds.
    """
    level = levels(order, tied)

    def wins(chosen: tuple[int, ...]) -> float:
        theirs = level[:, chosen]
        best = theirs.max(-1, keepdims=True)
        count = (theirs == best).sum(-1, keepdims=True)
        below, mass = ((policy * where).sum(-1, keepdims=True) for where in (level < best, level == best))
        reached, density = below + POSITIONS * mass, count * POSITIONS ** (count - 1)
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


def majority(
    order: Int[np.ndarray, "o v"], weights: Float[np.ndarray, " o"], tied: Bool[np.ndarray, "o v"] | None = None
) -> Float[np.ndarray, "v v"]:
    """The users' preference matrix: P(i beats j) is the weight of users who like i more than j, and half of those who
    like them alike; the game at k = 1."""
    level = levels(order, tied)
    above = np.sign(level[:, :, None] - level[:, None, :])
    return 0.5 + np.einsum("o,oij->ij", weights, above) / 2


def levels(order: Int[np.ndarray, "o v"], tied: Bool[np.ndarray, "o v"] | None = None) -> Int[np.ndarray, "o v"]:
    """How high each user places each action, the same number where it likes two alike."""
    steps = np.ones_like(order) if tied is None else (~tied).astype(order.dtype)
    found = np.empty_like(order)
    np.put_along_axis(found, order, steps.cumsum(-1), axis=-1)
    return found
