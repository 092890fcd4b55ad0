"""Is there anything to learn? How often the words of two answers alone tell which one is preferred.

Words are counted in the answers, one by one and two by two, and a Bradley-Terry model of the counts and of the log of
their number is fitted to four fifths of the prompts and measured on the last, in turn. It reads no prompt and no order,
and on many sets of pairs it is hard to beat: a preference model that does not has learnt a style.
"""

import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from jaxalign.data.comparisons.by_prompt import said
from jaxalign.data.comparisons.digests import digest
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.tables.strict import Tally

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FOLDS = 5
BUCKETS = 2**16
"""Counts that words and pairs of words are hashed to."""
PAIRS = 2**15
"""Most pairs that are looked at, evenly chosen: a minute, and some hundred megabytes."""
PENALTY = 1e-3
"""Of the squared weights, beside a mean loss in nats."""
WORD = re.compile(r"\w+|[^\w\s]")


def bag_of_words(source: Comparisons, total: int) -> dict[str, np.ndarray]:
    """Of pairs of a source of `total` comparisons that are no tie: `right`, 1 where a bag of words that learned from
    other prompts tells the preferred answer, 1/2 where it says nothing, else 0; and `prompt`, a number for each.

    Nothing where there are fewer than `FOLDS` prompts.
    """
    chosen = list(_pairs(source, -(-total // PAIRS)))
    prompt = np.array([digest(said(each.prompt)) for each in chosen], np.uint64)
    _, group = np.unique(prompt, return_inverse=True)
    if np.max(group, initial=0) + 1 < FOLDS:
        return {"right": np.zeros(0), "prompt": prompt[:0]}
    fold = np.random.default_rng(0).permutation(np.max(group) + 1)[group] % FOLDS
    counts, prefer = counted(chosen), np.array([each.prefer for each in chosen])
    odds = np.zeros(len(chosen))
    for number in range(FOLDS):
        held = fold == number
        odds[held] = counts[held] @ fitted(counts[~held], prefer[~held])
    return {"right": (1 + np.sign(odds) * np.sign(prefer - 0.5)) / 2, "prompt": prompt}


def _pairs(source: Comparisons, stride: int) -> Iterator[Comparison]:
    for index, each in enumerate(source.read(Tally())):
        if index % stride == 0 and len(each.answers) == 2 and each.prefer != 0.5:
            yield each


def counted(pairs: list[Comparison]) -> "csr_array":
    """Counts in the first answer minus those in the second [n, BUCKETS + 1], the last column that of log(1 + words)."""
    from scipy.sparse import csr_array

    values, columns, ends = list[float](), list[int](), [0]
    for each in pairs:
        for sign, answer in zip((1.0, -1.0), each.answers, strict=True):
            words = WORD.findall(answer.lower())
            found = [*words, *map(" ".join, itertools.pairwise(words))]
            columns += [*(digest(word) % BUCKETS for word in found), BUCKETS]
            values += [*[sign] * len(found), sign * float(np.log1p(len(words)))]
        ends.append(len(columns))
    counts = csr_array((values, columns, ends), shape=(len(pairs), BUCKETS + 1))
    counts.sum_duplicates()
    return counts


def fitted(counts: "csr_array", prefer: Float[np.ndarray, " n"]) -> Float[np.ndarray, " f"]:
    """Weights of a Bradley-Terry model of the counts: least mean cross-entropy with the labels + PENALTY · |w|²."""
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        odds = counts @ weights
        nats = -(prefer * log_expit(odds) + (1 - prefer) * log_expit(-odds)).mean()
        slope = counts.T @ ((expit(odds) - prefer) / len(prefer))
        return nats + PENALTY * weights @ weights, slope + 2 * PENALTY * weights

    start = np.zeros(counts.shape[1])
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x)
