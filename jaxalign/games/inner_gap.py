"""How far the inner problem is from solved, from the answers that a policy has sampled.

The regularised gap of a policy μ around an anchor a is tau KL(μ ‖ BR(μ)), BR(μ) ∝ a exp(P(· ≻ μ) / tau): what a
deviation gains, in units of win probability, and 0 only at the solution. With h = log μ/a - P(· ≻ μ) / tau it is

    tau (E_μ h + log E_μ exp(-h))     the plug-in estimate puts sampled win rates and means for the expectations
    tau/2 Var_μ h + third order       near the solution, where h is constant; this variance has an unbiased estimate

Of m samples the plug-in errs to both sides. Noise of the win rates, divided by tau, counts as gap and lifts it. And the
logarithm of a mean over m answers misses rare good ones, which takes it down: an answer of probability .001 that beats
all others nearly always makes a gap of .31 at tau .02, and eight samples say .003. The second order errs to both sides
too, with however many samples: it is too large where few answers are worse than the rest, and too small where few are
better (one of probability .1 that beats the others .95 to .05 makes a gap of .184 at tau .1, its second order is .091).
So what is logged is the larger of two estimates that have the plug-in's noise taken off: the second order, and the
plug-in less that noise, which is right with many samples. With few, both are too small where good answers are rare; no
estimate sees what was not sampled: each is of the game between answers that the policy gives.
"""

import numpy as np
from jaxtyping import Bool, Float

from jaxalign.games.certificates import Number
from jaxalign.games.sampled_games import SampledGames

FEWEST = 3
"""Samples of a prompt that the unbiased estimate needs: an answer and two opponents."""


def inner_gap(
    prefer: Float[np.ndarray, "*b m m"],
    log_ratio: Float[np.ndarray, "*b m"],
    weights: Float[np.ndarray, "*b m"],
    tau: Number,
) -> Float[np.ndarray, "*b"]:
    """The plug-in estimate of tau KL(μ ‖ BR(μ)), win probability; non-negative, exact where the answers enumerate μ.

    `log_ratio` [b m] is log μ / anchor (nats) of the answers. The diagonal counts 1/2, as the policy meets itself.
    """
    weights = weights / weights.sum(-1, keepdims=True)
    h = log_ratio - np.einsum("...ij,...j->...i", prefer, weights) / tau
    mean = (weights * h).sum(-1)
    lowest = h.min(-1, keepdims=True)
    gap = tau * (mean - lowest[..., 0] + np.log((weights * np.exp(lowest - h)).sum(-1)))
    return np.asarray(np.maximum(gap, 0.0))  # rounding alone would take it below


def corrected_inner_gap(
    prefer: Float[np.ndarray, "*b m m"], log_ratio: Float[np.ndarray, "*b m"], tau: Number
) -> Float[np.ndarray, "*b"]:
    """The unbiased estimate of tau/2 Var_μ h from m i.i.d. samples, win probability; of either sign, to be averaged.

    Var h = Var r - 2 Cov(r, g) / tau + Var g / tau², r the log-ratio and g(y) = P(y ≻ μ), whose mean is 1/2. Each part
    is a U-statistic: an answer, and one or two opponents that are not the answer itself nor one another. Near the
    solution this is the gap. Far from it, where h spans many nats, it is up to some times larger or smaller.
    """
    samples = prefer.shape[-1]
    assert samples >= FEWEST, f"{samples} samples a prompt; the estimate needs {FEWEST}"
    others = prefer.astype(np.float64) * (1.0 - np.eye(samples))
    total, squares = others.sum(-1), (others**2).sum(-1)
    opponents = (samples - 1) * (samples - 2)
    spread = ((total**2 - squares) / opponents).mean(-1) - 0.25
    coupled = (log_ratio * (total / (samples - 1) - 0.5)).mean(-1)
    return np.asarray(0.5 * tau * (log_ratio.var(-1, ddof=1) - 2.0 * coupled / tau + spread / tau**2))


def denoised_inner_gap(
    prefer: Float[np.ndarray, "*b m m"], log_ratio: Float[np.ndarray, "*b m"], tau: Number
) -> Float[np.ndarray, "*b"]:
    """The plug-in of m i.i.d. samples less its noise to second order, win probability; of either sign.

    That noise is what the plug-in's own tau/2 Var h has above the unbiased estimate. It goes with 1/m, and the estimate
    to the gap, however far the policy is from the solution. Of few samples at a small tau the plug-in's higher orders
    are noise themselves, of negative sign: the unbiased second order is larger then.
    """
    even = np.full(log_ratio.shape, 1.0 / log_ratio.shape[-1])
    h = log_ratio - prefer.mean(-1, dtype=np.float64) / tau
    return inner_gap(prefer, log_ratio, even, tau) - 0.5 * tau * h.var(-1) + corrected_inner_gap(prefer, log_ratio, tau)


def inner_metrics(games: SampledGames, whole: Bool[np.ndarray, " b"], tau: Number) -> dict[str, float]:
    """What a run logs of its inner problem, over the prompts of an iteration.

    `align/inner_gap` the plug-in estimate. `align/inner_gap_corrected` the exact gap of prompts whose answers are all
    there are (`whole`); of others that of two estimates, second order and less noise, whose mean is larger; the plug-in
    of those with fewer than `FEWEST` answers. Its standard error over prompts is `align/inner_gap_stderr`, absent where
    a single prompt was sampled: nothing tells it. All win probability. `align/anchor_kl_nats`, KL(μ ‖ anchor) from the
    samples.
    """
    plug_in = inner_gap(games.prefer, games.log_ratio, games.weights, tau)
    corrected, count = plug_in, len(plug_in)
    if games.prefer.shape[-1] >= FEWEST:
        estimates = (each(games.prefer, games.log_ratio, tau) for each in (corrected_inner_gap, denoised_inner_gap))
        corrected = max((np.where(whole, plug_in, each) for each in estimates), key=np.mean)
    metrics = {
        "align/inner_gap": float(plug_in.mean()),
        "align/inner_gap_corrected": float(corrected.mean()),
        "align/anchor_kl_nats": float(np.where(whole, exact_kl(games), sampled_kl(games)).mean()),
    }
    if count > 1 or whole.all():
        metrics["align/inner_gap_stderr"] = float(corrected.std(ddof=1) / count**0.5) if count > 1 else 0.0
    return metrics


def sampled_kl(games: SampledGames) -> Float[np.ndarray, " b"]:
    """KL(μ ‖ anchor) as the mean log-ratio: unbiased, of either sign."""
    return np.asarray((games.weights * games.log_ratio).sum(-1))


def exact_kl(games: SampledGames) -> Float[np.ndarray, " b"]:
    """The same where the answers are all there are, as the sum of μ (a/μ - 1 - log a/μ): what fp32 has rounded in the
    log-ratio enters it squared, so that it is known far below 1e-7."""
    turned = np.minimum(-games.log_ratio, 700.0)
    return np.asarray((games.weights * (np.expm1(turned) - turned)).sum(-1))
