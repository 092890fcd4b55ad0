"""Win rates with the effect of length taken out: what a policy would win if its answers were as long as the others'.

    logit P(y ≻ y′) = θ + φ tanh((|y| − |y′|) / s),        s = standard deviation of |y| − |y′|
    length-controlled win rate = σ(θ)

This is the model of Dubois et al. 2024 (arXiv 2404.04475, eq. 1) for two policies, without its difficulty of a prompt,
which only a fit over many policies identifies. Lengths are in tokens. Exchanging the policies changes the sign of θ,
so the two rates are complements. It assumes that length acts on the log-odds as written, the same for all prompts;
where all pairs are equally long there is no effect to take out, and the rate is σ of the mean log-odds' fit alone.
Where none are (one policy is always longer) θ is extrapolated, the interval is wide, and it holds as far as the model:
`comparable` has the share of pairs that are equally long, and the rate among these.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from jaxalign.evals.intervals import LEVEL, Estimate
from jaxalign.types import Preferences, Rollouts

RIDGE = 0.01
"""Of θ²/2 + φ²/2 beside the sum over prompts: keeps both finite where one policy wins everything."""

STEPS = 50


def length_controlled(preferences: Preferences, policies: tuple[Rollouts, Rollouts]) -> Estimate:
    """The first policy's length-controlled win rate against the second.

    `preferences` are among the answers of both, policy after policy along m. The interval is made as in `intervals`:
    two prompts are added, one whose pairs, of the lengths that there are, are all won and one whose are all lost, and
    the error is the sandwich over prompts (Liang & Zeger 1986). It is taken on the scale of log-odds, on which a rate
    near 1 has its long side below, and on that of rates, on which few losses leave room above: the outer ends count.
    """
    prefer, effect, weights = _pairs(preferences, policies)
    count, design = len(prefer), np.stack([np.ones_like(effect), effect], -1)
    found = _fit(prefer, design, weights)
    rate = float(_sigmoid(found)[0])
    scores = _pull(weights * (prefer - _sigmoid(design @ found)), design)
    stderr = rate * (1 - rate) * _error(scores, found, design, weights) if count > 1 else None

    # The two more: every pair of all prompts, with the share of one prompt together, won in one and lost in the other.
    share = 1 / count
    among, more = (prefer + share) / (1 + 2 * share), weights * (1 + 2 * share)
    centre = _fit(among, design, more)
    guess = _sigmoid(design @ centre)
    added = [_pull(share * weights * (end - guess), design).sum(0, keepdims=True) for end in (0.0, 1.0)]
    scores = np.concatenate([_pull(weights * (prefer - guess), design), *added])
    half = stdtrit(count + 1, (1 + LEVEL) / 2) * _error(scores, centre, design, more) * np.array([-1.0, 1.0])
    middle = _sigmoid(centre)[0]
    ends = np.stack([_sigmoid(centre[0] + half), middle + middle * (1 - middle) * half])
    # Where nothing tells length from winning, the two fits may differ by more than the error of one.
    return Estimate(rate, stderr, min(rate, max(0.0, float(ends.min()))), max(rate, min(1.0, float(ends.max()))))


def linearised(preferences: Preferences, policies: tuple[Rollouts, Rollouts]) -> Float[np.ndarray, " b"]:
    """A number a prompt, to first order what it says of the rate (its influence): their mean is the length-controlled
    win rate, their standard error that of `length_controlled`, and those of other policies on the same prompts can be
    subtracted from them."""
    prefer, effect, weights = _pairs(preferences, policies)
    design = np.stack([np.ones_like(effect), effect], -1)
    found = _fit(prefer, design, weights)
    guess, rate = _sigmoid(design @ found), float(_sigmoid(found)[0])
    bread = np.linalg.inv(_curvature(weights * guess * (1 - guess), design))
    moved = len(prefer) * rate * (1 - rate) * _pull(weights * (prefer - guess), design) @ bread[0]
    return np.asarray(rate + moved - moved.mean())


def _pairs(
    preferences: Preferences, policies: tuple[Rollouts, Rollouts]
) -> tuple[Float[np.ndarray, "b k"], Float[np.ndarray, "b k"], Float[np.ndarray, "b k"]]:
    """Of every pair of an answer of the first and one of the second policy: P(y ≻ y′), tanh of how much longer y is,
    and its weight."""
    first, second = policies
    samples = first.lengths.shape[1]
    prefer = preferences.prefer[:, :samples, samples:].astype(np.float64)
    weights = first.weights[:, :, None].astype(np.float64) * second.weights[:, None, :]
    longer = (first.lengths[:, :, None] - second.lengths[:, None, :]).astype(np.float64)
    spread = np.sqrt(np.average((longer - np.average(longer, weights=weights)) ** 2, weights=weights))
    effect = np.tanh(longer / spread) if spread > 0 else np.zeros_like(longer)
    count = len(prefer)
    return prefer.reshape(count, -1), effect.reshape(count, -1), weights.reshape(count, -1)


def _error(
    scores: Float[np.ndarray, "n 2"],
    found: Float[np.ndarray, " 2"],
    design: Float[np.ndarray, "b k 2"],
    weights: Float[np.ndarray, "b k"],
) -> float:
    """Standard error of θ at a fit, of the `scores` of its n prompts."""
    guess = _sigmoid(design @ found)
    bread = np.linalg.inv(_curvature(weights * guess * (1 - guess), design))
    return float(np.sqrt((bread @ (scores.T @ scores) @ bread)[0, 0] * len(scores) / (len(scores) - 1)))


def _fit(
    prefer: Float[np.ndarray, "b k"], design: Float[np.ndarray, "b k 2"], weights: Float[np.ndarray, "b k"]
) -> Float[np.ndarray, " 2"]:
    """θ and φ: the penalised likelihood's maximum by Newton's method, which is concave."""
    found = np.zeros(2)
    for _ in range(STEPS):
        guess = _sigmoid(design @ found)
        gradient = _pull(weights * (prefer - guess), design).sum(0) - RIDGE * found
        step = np.linalg.solve(_curvature(weights * guess * (1 - guess), design), gradient)
        # Far from the maximum the slopes vanish, and a whole step would leap over it.
        found = found + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-10:
            break
    return found


def _pull(miss: Float[np.ndarray, "b k"], design: Float[np.ndarray, "b k 2"]) -> Float[np.ndarray, "b 2"]:
    return np.asarray(np.einsum("bk,bki->bi", miss, design))


def _curvature(slope: Float[np.ndarray, "b k"], design: Float[np.ndarray, "b k 2"]) -> Float[np.ndarray, "2 2"]:
    return np.asarray(np.einsum("bk,bki,bkj->ij", slope, design, design)) + RIDGE * np.eye(2)


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(value / 2)) / 2
