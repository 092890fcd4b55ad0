"""How likely a user picks an answer from a set of others that are drawn from samples, or from a law: without drawing.

A user is known by what it says of two answers, P(y ≻ y′). From y and a set S it picks y with the chance

    pick(y | S) = 1 / (1 + Σ_{j ∈ S} o_j),        o_j = P(j ≻ y) / P(y ≻ j)                    (Luce 1959)

which is P(y ≻ j) of two answers, whoever the user is. It is the whole choice of users whose odds multiply: of a scorer
at any temperature (Bradley–Terry's, then Plackett–Luce's), of one that ranks for certain, and of one that ranks and
likes some answers alike, who picks evenly among its equals. Of others (preferences that cycle within one user) the
chances of a set's answers need not sum to 1.

Averaged over all sets of k of n others, with e^(-t o) in place of each of its sum's terms,

    mean_S pick(y | S) = ∫₀^∞ e^(-t) e_k(exp(-t o_1), …, exp(-t o_n)) / C(n, k) dt

where e_k is the elementary symmetric polynomial: k n steps in place of C(n, k) sets. Over k draws from a law w it is
(Σ_j w_j exp(-t o_j))^k under the integral. In s = -log t the integrand is smooth on a scale of 1 and has no edges, so
the trapezoid rule is as good as exact.
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement
from math import comb

import numpy as np
from jaxtyping import Float, Int

STEP = 0.35
_positions = np.arange(-4.2, 28.0, STEP)
TIMES = np.exp(-_positions)
SHARES = STEP * TIMES * np.exp(-TIMES)
"""Nodes t and weights. Odds from 0 to infinity, k to 63: within 1e-10 of sets that are listed or of closed forms."""


def kept(prefer: Float[np.ndarray, "*b n m"]) -> Float[np.ndarray, "*b n m q"]:
    """exp(-t o) of every answer m met by answer n, at every node: how likely it is not the one that is picked. `prefer`
    is P(n ≻ m)."""
    wins = prefer.astype(np.float64)
    # odds of infinity, not of 0/0: the complement of 0 is 1
    with np.errstate(divide="ignore"):
        odds = np.clip((1 - wins) / wins, 0, np.finfo(np.float64).max)
    with np.errstate(over="ignore"):
        return np.exp(-odds[..., None] * TIMES)


def over_sets(kept: Float[np.ndarray, "*b m q"], most: int, count: int) -> Float[np.ndarray, "k1 *b q"]:
    """The mean of products over all sets of 0, 1, … `most` of m answers, `count` of which there are (the others are
    kept at 0): elementary symmetric polynomials over their numbers of sets."""
    means = np.zeros((most + 1, *kept.shape[:-2], kept.shape[-1]))
    means[0] = 1.0
    sizes = np.arange(1.0, most + 1).reshape(-1, *(1,) * (means.ndim - 1))
    # Means, and not sums over numbers of sets: of 1,100 answers there are more sets of 500 than fp64 counts.
    for number, each in enumerate(np.moveaxis(kept, -2, 0), 1):
        has = sizes / number  # how many of the sets of the answers so far have this one
        means[1:] = has * each * means[:-1] + (1 - has) * means[1:]
    absent = [comb(kept.shape[-2], size) / comb(count, size) for size in range(most + 1)]
    return means * np.array(absent).reshape(-1, *(1,) * (means.ndim - 1))


def over_draws(
    kept: Float[np.ndarray, "*b m q"], weights: Float[np.ndarray, " m"], most: int
) -> Float[np.ndarray, "k1 *b q"]:
    """The same for 0, 1, … `most` draws from a law."""
    one = np.einsum("...mq,m->...q", kept, weights.astype(np.float64))
    return one[None] ** np.arange(most + 1).reshape(-1, *(1,) * one.ndim)


def gains_of_samples(
    prefer: Float[np.ndarray, "*o n m"], k: int, own: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "*o n"]:
    """û_k of n of m answers drawn from one policy, the ones numbered `own`, for each user: the mean of pick(y | S) over
    all sets S of k of the m - 1 others, k < m. See `oracles.k_samples` for its law."""
    others = kept(prefer)
    others[..., np.arange(len(own)), own, :] = 0.0
    return np.asarray(over_sets(others, k, prefer.shape[-1] - 1)[k] @ SHARES)


def gains_of_law(
    prefer: Float[np.ndarray, "*o n m"], weights: Float[np.ndarray, " m"], k: int
) -> Float[np.ndarray, "*o n"]:
    """u_k of n answers against k draws from the law `weights` over m."""
    return np.asarray(over_draws(kept(prefer), weights, k)[k] @ SHARES)


def gains_of_sets(
    prefer: Float[np.ndarray, "*o m m"], weights: Float[np.ndarray, " m"], ks: Sequence[int], size: int
) -> Float[np.ndarray, "k *o s"]:
    """How likely one of a set is picked, for every set of `size` of m answers, the same one more than once too, against
    k draws from the law `weights`. Of one answer it is `gains_of_law`."""
    met = kept(prefer)
    drawn = over_draws(met, weights, max(ks))[list(ks)]
    found = []
    for chosen in combinations_with_replacement(range(len(weights)), size):
        picked = np.zeros(drawn.shape[:-2])
        for at, one in enumerate(chosen):
            beside = met[..., one, list(chosen[:at] + chosen[at + 1 :]), :].prod(-2)
            picked += (drawn[..., one, :] * beside) @ SHARES
        found.append(picked)
    return np.stack(found, -1)
