"""Win rates with the effect of length taken out: what a policy would win if its answers were as long as the others'.

    logit P(y ≻ y′) = θ + φ tanh((|y| − |y′|) / s),        s = standard deviation of |y| − |y′|
    length-controlled win rate = σ(θ)

This is the model of Dubois et al. 2024 (arXiv 2404.04475, eq. 1) for two policies, without its difficulty of a prompt,
which only a fit over many policies identifies. Lengths are in tokens. Exchanging the policies changes the sign of θ,
so the two rates are complements. It assumes that length acts on the log-odds as written, the same for all prompts;
where all pairs are equally long there is no effect to take out, and the rate is σ of the mean log-odds' fit alone.
"""

import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from jaxalign.types import Preferences, Rollouts

RIDGE = 0.01
"""Of θ²/2 + φ²/2 beside the sum over prompts: keeps both finite where one policy wins everything."""

STEPS = 50
AT_ONCE = 1 << 22
"""Cells of resamples × pairs that are fitted together, so that many prompts do not need much memory."""


def length_controlled(
    preferences: Preferences, policies: tuple[Rollouts, Rollouts], key: PRNGKeyArray, resamples: int
) -> tuple[float, float, float]:
    """The first policy's length-controlled win rate against the second, and its 95 % interval from resampled prompts.

    `preferences` are among the answers of both, policy after policy along m.
    """
    first, second = policies
    samples = first.lengths.shape[1]
    prefer = preferences.prefer[:, :samples, samples:].astype(np.float64)
    weights = first.weights[:, :, None].astype(np.float64) * second.weights[:, None, :]
    longer = (first.lengths[:, :, None] - second.lengths[:, None, :]).astype(np.float64)
    spread = np.sqrt(np.average((longer - np.average(longer, weights=weights)) ** 2, weights=weights))
    effect = np.tanh(longer / spread) if spread > 0 else np.zeros_like(longer)

    count = len(prefer)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    counts = np.concatenate([np.ones((1, count), np.int64), drawn])
    prefer, effect, weights = (each.reshape(count, -1) for each in (prefer, effect, weights))
    rates = _rates(prefer, effect, weights, counts)
    low, high = np.quantile(rates[1:], [0.025, 0.975])
    return float(rates[0]), float(low), float(high)


def _rates(
    prefer: Float[np.ndarray, "b k"],
    effect: Float[np.ndarray, "b k"],
    weights: Float[np.ndarray, "b k"],
    counts: Int[np.ndarray, "n b"],
) -> Float[np.ndarray, " n"]:
    """σ(θ) of the fit to every way to count the prompts."""
    at_once = max(AT_ONCE // prefer.size, 1)
    parts = [counts[start : start + at_once] for start in range(0, len(counts), at_once)]
    return np.concatenate([_sigmoid(_fit(prefer, effect, weights, part)) for part in parts])


def _fit(
    prefer: Float[np.ndarray, "b k"],
    effect: Float[np.ndarray, "b k"],
    weights: Float[np.ndarray, "b k"],
    counts: Int[np.ndarray, "n b"],
) -> Float[np.ndarray, " n"]:
    """θ of each row of `counts`: the penalised likelihood's maximum by Newton's method, which is concave."""
    share = counts[:, :, None] * weights
    found = np.zeros((len(counts), 2))
    for _ in range(STEPS):
        guess = _sigmoid(found[:, :1, None] + found[:, 1:, None] * effect)
        miss, slope = share * (prefer - guess), share * guess * (1 - guess)
        gradient = np.stack([miss.sum((1, 2)), (miss * effect).sum((1, 2))], -1) - RIDGE * found
        curves = [(slope * effect**power).sum((1, 2)) for power in range(3)]
        curvature = np.stack([np.stack(curves[:2], -1), np.stack(curves[1:], -1)], -1) + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        # Far from the maximum the slopes vanish, and a whole step would leap over it.
        found = found + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-10:
            break
    return found[:, 0]


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(value / 2)) / 2
