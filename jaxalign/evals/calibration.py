"""How well log-odds of held-out pairs fit what people said: calibration, and what length has to do with it.

    nll          mean of −p log σ(z/T) − (1 − p) log σ(−z/T), nats
    ece          mean over bins of confidence of |share right − mean confidence|, weighted by pairs in them
    temperature  the T with the lowest nll (Guo et al. 2017, arXiv 1706.04599), fitted on some prompts and measured on
                 the others, in turn

z is the margin of a pair: the log-odds of a score model, or how much likelier a policy has made the first answer. Who
is sure of too much has T > 1. Dividing log-odds by T changes no preference, so accuracy stays.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxalign.errors import ConfigError
from jaxalign.evals.context import HeldOut
from jaxalign.types import Metrics

BINS = 15
"""Bins of equal width between confidences of 1/2 and 1, as Guo et al. have them between 0 and 1."""
SHARPEST, DULLEST = 1e-2, 1e2
"""Bounds of the temperature: pairs that are all judged right, or none, have no lowest loss between."""


@dataclass(frozen=True)
class Judged:
    """What a judge says of g held-out pairs, and what people said."""

    log_odds: Float[np.ndarray, " g"]
    """of answer 0 being better, nats"""
    prefer: Float[np.ndarray, " g"]
    """probability that answer 0 is preferred"""
    prompt: Int[np.ndarray, " g"]
    """number of the pair's prompt: pairs of one are no independent draws"""
    lengths: Int[np.ndarray, "g r"]
    """tokens of the answers"""

    @property
    def right(self) -> Float[np.ndarray, " g"]:
        """Probability that the label is what the log-odds say; draws of either count half."""
        draw, first = self.log_odds == 0, self.log_odds > 0
        return np.where(draw, 0.5, np.where(first, self.prefer, 1 - self.prefer))

    def among(self, chosen: Bool[np.ndarray, " g"]) -> "Judged":
        """Some of the pairs."""
        return Judged(self.log_odds[chosen], self.prefer[chosen], self.prompt[chosen], self.lengths[chosen])


def nll(judged: Judged, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the labels, nats."""
    scaled = judged.log_odds.astype(np.float64) / temperature
    return float((judged.prefer * np.logaddexp(0, -scaled) + (1 - judged.prefer) * np.logaddexp(0, scaled)).mean())


def ece(judged: Judged, temperature: float = 1.0) -> float:
    """Expected calibration error of the more likely answer, in [0, 1]."""
    confidence = 1 / (1 + np.exp(-np.abs(judged.log_odds.astype(np.float64)) / temperature))
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=judged.right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def temperature(judged: Judged) -> float:
    """The T with the lowest nll: the loss is convex in 1/T, so its slope has one zero, found by bisection."""
    odds = judged.log_odds.astype(np.float64)

    def slope(sharpness: float) -> float:
        raises, lowers = 1 / (1 + np.exp(sharpness * odds)), 1 / (1 + np.exp(-sharpness * odds))
        return float((odds * ((1 - judged.prefer) * lowers - judged.prefer * raises)).mean())

    low, high = 1 / DULLEST, 1 / SHARPEST
    with np.errstate(over="ignore"):
        for _ in range(60):
            middle = np.sqrt(low * high)
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / np.sqrt(low * high))


def calibration(judged: Judged) -> Metrics:
    """nll and ece as they are and at a temperature of other prompts, in two folds; the temperature of all."""
    _, cluster = np.unique(judged.prompt, return_inverse=True)
    folds = [judged.among(cluster % 2 == fold) for fold in range(2)]
    metrics = {"nll": nll(judged), "ece": ece(judged), "temperature": temperature(judged)}
    if min(len(fold.prefer) for fold in folds):
        others = [temperature(fold) for fold in reversed(folds)]
        shares = [len(fold.prefer) / len(judged.prefer) for fold in folds]
        for name, measure in (("nll", nll), ("ece", ece)):
            each = zip(folds, others, shares, strict=True)
            metrics[f"{name}_calibrated"] = sum(share * measure(fold, other) for fold, other, share in each)
    return metrics


def length_bias(judged: Judged) -> Metrics:
    """Accuracy where the longer answer wins and where it loses, and how often each is judged and labelled to win.

    Ties of lengths are left out; a metric whose pairs are none is too.
    """
    longer = np.sign(judged.lengths[:, 0] - judged.lengths[:, 1])
    says = np.where(judged.log_odds == 0, 0.5, judged.log_odds > 0)
    first = np.where(longer > 0, judged.prefer, 1 - judged.prefer)  # P(the longer answer is preferred)
    sets = {
        "accuracy_longer_wins": (judged.right, (longer != 0) & (first > 0.5)),
        "accuracy_longer_loses": (judged.right, (longer != 0) & (first < 0.5)),
        "longer_preferred": (np.where(longer > 0, says, 1 - says), longer != 0),
        "longer_labelled": (first, longer != 0),
    }
    return {name: float(values[chosen].mean()) for name, (values, chosen) in sets.items() if chosen.any()}


@dataclass(frozen=True)
class Calibration:
    """`calibration/nll`, `…/ece`, both `…_calibrated` at a temperature of other prompts, and `…/temperature`;
    `length_bias/accuracy_longer_wins` and `…_loses` (0.5 of both is a coin, one without the other is a ruler),
    `…/longer_preferred` beside `…/longer_labelled`. Of lone answers, which are no longer than another, the first kind
    alone."""

    needs: ClassVar[tuple[str, ...]] = ("pairs", "log_odds")

    def __call__(self, context: HeldOut) -> Metrics:
        pairs = context.pairs
        if pairs is None:
            raise ConfigError("evals: Calibration needs held-out pairs, and there are none")
        judged = Judged(pairs.margins, pairs.prefer, pairs.prompt, pairs.lengths)
        found = {"calibration": calibration(judged)} | ({} if pairs.lone else {"length_bias": length_bias(judged)})
        return {f"{kind}/{name}": value for kind, each in found.items() for name, value in each.items()}


EXAMPLE = Calibration()
