"""Win rates over those pairs of answers that are alike in something a judge may go by: both finished, equally long.

    rate = Σ_x Σ_ij wA_i wB_j c_ij P(y_i ≻ y′_j) / Σ_x Σ_ij wA_i wB_j c_ij        c = 1 for the pairs that count

They assume no model of what length does, and look at a part of the answers: a policy that finishes more often is
compared where the other finishes too, which is no random part of the prompts. Read them beside the raw rate and
beside the length-controlled one, with the share of pairs that counts.
"""

import numpy as np
from jaxtyping import Bool, Float

from jaxalign.evals.intervals import ByPrompt, Estimate, effective, estimated
from jaxalign.types import Rollouts

WITHIN = 0.1
"""Answers whose lengths in tokens differ by at most this share of the longer one are called equally long."""


def both_finished(first: Rollouts, second: Rollouts) -> Bool[np.ndarray, "b m n"]:
    """Pairs of answers that both end by themselves."""
    return np.asarray(first.finished[:, :, None] & second.finished[:, None, :])


def equally_long(first: Rollouts, second: Rollouts) -> Bool[np.ndarray, "b m n"]:
    """Pairs of answers of about the same length; two that are cut by the same limit are among them."""
    one, other = first.lengths[:, :, None], second.lengths[:, None, :]
    return np.asarray(np.abs(one - other) <= WITHIN * np.maximum(one, other))


def rate_among(
    counts: Bool[np.ndarray, "b m n"], prefer: Float[np.ndarray, "b m n"], first: Rollouts, second: Rollouts
) -> tuple[float, Estimate | None]:
    """The share of pairs that count, and the first policy's win rate among them; None where none counts.

    `prefer` is P(y ≻ y′) of an answer of the first and one of the second. Rounded as in `win_rate.between`, so that
    complements stay exact.
    """
    share, value = _each(counts, prefer, first, second)
    if not share.any():
        return 0.0, None
    return float(share.mean()), estimated(value, share)


def linearised(
    counts: Bool[np.ndarray, "b m n"], prefer: Float[np.ndarray, "b m n"], first: Rollouts, second: Rollouts
) -> ByPrompt | None:
    """A number a prompt, to first order what it says of `rate_among`: their mean is the rate, their standard error its.
    None where no pair counts."""
    share, value = _each(counts, prefer, first, second)
    if not share.any():
        return None
    rate = share @ value / share.sum()
    return ByPrompt(rate + share / share.mean() * (value - rate), effective(share))


def _each(
    counts: Bool[np.ndarray, "b m n"], prefer: Float[np.ndarray, "b m n"], first: Rollouts, second: Rollouts
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """Of each prompt the share of pairs that count, and the rate among them; 1/2 where none does."""
    weights = np.where(counts, first.weights[:, :, None].astype(np.float64) * second.weights[:, None, :], 0.0)
    share = weights.sum((1, 2))
    advantage = (weights * (prefer.astype(np.float64) - 0.5)).sum((1, 2)) / np.where(share > 0, share, 1.0)
    return share, 0.5 + np.round(advantage * 2**40) / 2**40
